"""The real daemon with a driver that is upgraded or suspended: the real binding, a fake library."""

from __future__ import annotations

import asyncio
import signal
import socket
from pathlib import Path

import pytest

from gpumand.testing.login1 import FakeLogind
from tests.integration.live import Client, LiveHost, bare_host, table, wait_until
from tests.shim import build_shim, have_compiler, shim_environment
from tests.shim.shimfile import Shim, ShimDevice

MIB = 8000
NVML = 'source = "nvml"\nsample_interval_sec = 0.1\ntotal_mib = 24576'

pytestmark = pytest.mark.skipif(not have_compiler(), reason="gcc is not installed, so the fake NVML cannot be built")


class Driver:
    """A driver library that can be upgraded, and the text file that controls it."""

    def __init__(self, host: LiveHost, *, stays_mapped: bool = False) -> None:
        self._text = host.folder / "shim.txt"
        self._folder = host.folder / "lib"
        self._stays_mapped = stays_mapped
        self.shutdowns = host.folder / "shutdowns"
        self.shim = Shim(devices=[ShimDevice("GPU-a", total_mib=24576, processes_in=host.simulator)])
        self.shim.write(self._text)
        library = build_shim(self._folder, stays_mapped=stays_mapped)
        host.environ |= shim_environment(library, self._text)
        host.environ |= {"GPUMAND_NVML_SHIM_SHUTDOWNS": str(self.shutdowns)}

    def upgrade(self) -> None:
        """Install a new library and kernel module, as a package upgrade with a module reload does."""
        build_shim(self._folder, version=2, stays_mapped=self._stays_mapped)
        self.shim.kernel, self.shim.generation = 2, 1
        self.write()

    def write(self) -> None:
        """Write the text file that controls the library."""
        self.shim.write(self._text)


async def start(host: LiveHost, **more: str) -> Client:
    await host.launch("image", MIB, "--load-sec", "0.05")
    host.configure(table(host.consumers["image"], MIB, **more), gpu=NVML)
    await host.start()
    return await host.client()


async def is_degraded(client: Client, word: str) -> bool:
    degraded = (await client.status())["degraded"]
    return degraded.startswith(word) if word else not degraded


async def test_upgraded_driver_is_read_by_the_same_process(tmp_path: Path) -> None:
    async with bare_host(tmp_path) as host:
        driver = Driver(host)
        client = await start(host)
        lease, _ = await client.acquire("image")
        driver.upgrade()
        await wait_until("the change is noticed", is_degraded, client, "nvml-error")
        await wait_until("the device is read again", is_degraded, client, "")
        assert host.daemon is not None
        assert host.daemon.returncode is None
        assert [one["id"] for one in (await client.status())["leases"]] == [lease]
        assert "Traceback" not in host.log, host.log[-4000:]


async def test_library_that_stays_mapped_ends_the_process_but_no_lease(tmp_path: Path) -> None:
    async with bare_host(tmp_path) as host:
        driver = Driver(host, stays_mapped=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(tmp_path / "notify"))
            host.environ |= {"NOTIFY_SOCKET": str(tmp_path / "notify")}
            host.program = ("-m", "tests.integration.faulty_daemon", "allows-early-restart")
            client = await start(host)
            lease, _ = await client.acquire("image")
            assert host.daemon is not None
            host.daemon.send_signal(signal.SIGUSR1)
            driver.upgrade()
            async with asyncio.timeout(60):
                assert await host.daemon.wait() == 1, "so that systemd starts it again"
            await host.start()
            assert await is_degraded(client, "")
            assert [one["id"] for one in (await client.status())["leases"]] == [lease]
        assert "Traceback" not in host.log, host.log[-4000:]


async def test_process_does_not_end_without_a_service_manager(tmp_path: Path) -> None:
    async with bare_host(tmp_path) as host:
        driver = Driver(host, stays_mapped=True)
        host.program = ("-m", "tests.integration.faulty_daemon", "allows-early-restart")
        client = await start(host)
        assert host.daemon is not None
        host.daemon.send_signal(signal.SIGUSR1)
        driver.upgrade()
        await wait_until("the mismatch is reported", is_degraded, client, "driver-mismatch")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(6):  # longer than the interval between two checks
                await host.daemon.wait()


async def test_lease_follows_its_device(tmp_path: Path) -> None:
    async with bare_host(tmp_path) as host:
        driver = Driver(host)
        driver.shim.devices.append(ShimDevice("GPU-b", total_mib=24576))
        driver.write()
        client = await start(host, device='"GPU-b"')
        await client.acquire("image")
        assert await is_on(client, "1")
        driver.shim.devices.reverse()
        driver.shim.generation = 1
        driver.write()
        await wait_until("the change is noticed", is_degraded, client, "nvml-error")
        await wait_until("the lease has followed its device", is_on, client, "0")
        [lease] = (await client.status())["leases"]
        assert lease["device"] == "0"


async def is_on(client: Client, device: str) -> bool:
    return bool((await client.consumer("image"))["device"] == device)


async def test_driver_is_initialised_again_after_a_suspend(tmp_path: Path) -> None:
    async with bare_host(tmp_path) as host:
        driver = Driver(host)
        logind = FakeLogind(host.bus.address)
        await logind.start()
        client = await start(host)
        await client.acquire("image")
        assert not driver.shutdowns.exists()
        logind.prepare("Sleep", True)
        logind.prepare("Sleep", False)
        await wait_until("the driver was shut down", exists, driver.shutdowns)
        await wait_until("the driver is read again", is_degraded, client, "")
        assert driver.shutdowns.read_text() == "."
        [device] = (await client.status())["devices"]
        assert device["used_mib"] == MIB
        await logind.stop()


async def exists(path: Path) -> bool:
    return await asyncio.to_thread(path.exists)
