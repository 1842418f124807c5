"""gpumanctl gpu release, and the driver that rests, with the real daemon: the real binding, a fake library."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from gpumand.bus import names
from gpumand.bus.variants import unwrap
from tests.integration.cli.ctl import Ctl, finished
from tests.integration.live import Client, LiveHost, bare_host, table, wait_until
from tests.shim import build_shim, have_compiler, shim_environment
from tests.shim.shimfile import Shim, ShimDevice

MIB = 8000
NVML = 'source = "nvml"\nsample_interval_sec = 0.1\n'

pytestmark = pytest.mark.skipif(not have_compiler(), reason="gcc is not installed, so the fake NVML cannot be built")


class Driver:
    """The fake library, and the log of its calls."""

    def __init__(self, host: LiveHost) -> None:
        self._text, self._calls = host.folder / "shim.txt", host.folder / "calls"
        self.shim = Shim(devices=[ShimDevice("GPU-a", total_mib=24576, processes_in=host.simulator)])
        self.write()
        host.environ |= shim_environment(build_shim(host.folder / "lib"), self._text)
        host.environ |= {
            "GPUMAND_NVML_SHIM_CALLS": str(self._calls),
            "GPUMAND_NVML_SHIM_SHUTDOWNS": str(host.folder / "shutdowns"),
        }

    def write(self) -> None:
        self.shim.write(self._text)

    @property
    def calls(self) -> Counter[str]:
        return Counter(self._calls.read_text().split())

    async def are_made_within(self, seconds: float) -> int:
        """The number of driver calls within this time, which is several sample intervals."""
        before = self.calls.total()
        await asyncio.sleep(seconds)
        return self.calls.total() - before


async def start(host: LiveHost, gpu: str = NVML) -> Client:
    await host.launch("image", MIB, "--load-sec", "0.05")
    host.configure(table(host.consumers["image"], MIB), gpu=gpu)
    await host.start()
    return await host.client()


async def is_degraded(client: Client, word: str) -> bool:
    degraded = (await client.status())["degraded"]
    return degraded.startswith(word) if word else not degraded


async def waits_for(client: Client, words: str) -> bool:
    return any(words in one["waiting_for"] for one in (await client.status())["queue"])


async def test_driver_can_be_reloaded_while_requests_wait(tmp_path: Path) -> None:
    async with bare_host(tmp_path) as host:
        driver, ctl = Driver(host), Ctl(host.bus.address)
        client = await start(host)

        released = await ctl("gpu", "release", "--for", "5min")
        assert (released.code, released.err) == (0, "")
        assert released.out.startswith("The GPU driver is released until ")
        assert await driver.are_made_within(0.5) == 0
        waiting = client.start_acquire("image")
        await wait_until("the request waits", waits_for, client, "the GPU driver is released by")
        driver.shim.generation = 1  # the module was reloaded
        driver.write()
        assert await driver.are_made_within(0.3) == 0
        assert "driver-released" in (await ctl("status")).out

        taken = await ctl("gpu", "take")
        assert (taken.code, taken.out) == (0, "gpumand uses the GPU driver again.\n")
        _, grant = await waiting
        assert grant["loaded"]
        await wait_until("the device is read again", is_degraded, client, "")
        assert (await ctl("gpu", "take")).out == "The GPU driver was not released.\n"
        assert "Traceback" not in host.log, host.log[-4000:]


async def test_consumer_in_vram_is_named_and_must_be_evicted_first(tmp_path: Path) -> None:
    async with bare_host(tmp_path) as host:
        Driver(host)
        ctl = Ctl(host.bus.address)
        client = await start(host)
        lease, _ = await client.acquire("image")
        refused = await ctl("gpu", "release")
        assert refused.code == 1
        assert "consumers use the GPU: image. Evict them first (gpumanctl evict image)" in refused.err
        await client.release(lease)
        assert (await ctl("evict", "image")).code == 0
        assert (await ctl("gpu", "release")).code == 0


async def test_command_runs_without_the_driver_which_is_taken_when_it_ends(tmp_path: Path) -> None:
    async with bare_host(tmp_path) as host:
        driver, ctl = Driver(host), Ctl(host.bus.address)
        client = await start(host)
        calls, before = tmp_path / "calls", tmp_path / "before"
        script = f'cp "{calls}" "{before}"; sleep 0.5; cmp "{calls}" "{before}" && exit 7'

        done = await ctl("gpu", "release", "--", "sh", "-c", script)

        assert (done.code, done.out, done.err) == (7, "", "")
        await wait_until("the device is read again", is_degraded, client, "")
        assert await driver.are_made_within(0.5) > 0


async def test_driver_is_taken_again_when_gpumanctl_is_killed(tmp_path: Path) -> None:
    async with bare_host(tmp_path) as host:
        Driver(host)
        client = await start(host)
        process = await Ctl(host.bus.address).start("gpu", "release", "--", "sleep", "60")
        await wait_until("the driver is released", is_degraded, client, "driver-released")
        os.killpg(process.pid, signal.SIGKILL)
        await finished(process)
        await wait_until("the device is read again", is_degraded, client, "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--for", "25h"), "--for must be greater than 0 and at most 1 d, not 1 d 1 h"),
        (("--for", "0"), "--for must be greater than 0 and at most 1 d, not 0"),
        (("--json", "--", "true"), "--json does not work with a command"),
        (("--", "no-such-command"), "command not found"),
    ],
)
async def test_release_with_wrong_arguments_releases_nothing(
    tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    async with bare_host(tmp_path) as host:
        Driver(host)
        client = await start(host)
        refused = await Ctl(host.bus.address)("gpu", "release", *arguments)
        assert refused.code != 0
        assert words in refused.err
        assert await is_degraded(client, "")


async def test_driver_is_closed_without_consumers_and_opened_for_a_reader(tmp_path: Path) -> None:
    async with bare_host(tmp_path) as host:
        driver = Driver(host)
        host.configure("", gpu=f"{NVML}idle_release_sec = 1")
        await host.start()
        client = await host.client()

        async def is_closed() -> bool:
            return (host.folder / "shutdowns").exists() and await driver.are_made_within(0.3) == 0

        await wait_until("the driver is closed", is_closed)
        driver.shim.devices[0].used_mib = 4321
        driver.write()

        assert (await client.status())["devices"][0]["used_mib"] == 4321
        await wait_until("the driver is closed again", is_closed)


async def test_telemetry_reaches_the_status_and_the_device(tmp_path: Path) -> None:
    async with bare_host(tmp_path) as host:
        driver = Driver(host)
        gpu = driver.shim.devices[0]
        gpu.utilization, gpu.temperature, gpu.power, gpu.power_limit = 42, 61, 123_400, 450_000
        driver.write()
        client = await start(host)
        await client.acquire("image")

        async def is_shown() -> bool:
            device = (await client.status())["devices"][0]
            return device.get("utilization_percent") == 42 and len(device.get("history", {}).get("used_mib", ())) > 2

        await wait_until("telemetry is shown", is_shown)
        status = await client.status()
        (device,) = status["devices"]
        assert (device["temperature_celsius"], device["power_watts"], device["power_limit_watts"]) == (61, 123.4, 450.0)
        assert "temperature_limit_celsius" not in device, "the GPU does not report it"
        assert status["driver_state"] == "open"
        where = (names.BUS_NAME, f"{names.ROOT_PATH}/device/0", names.PROPERTIES)
        (found,) = await client.bus.call(*where, "GetAll", "s", (names.DEVICE,), timeout_sec=30.0)
        properties = unwrap(found)
        assert (properties["UtilizationPercent"], properties["PowerWatts"]) == (42, 123.4)
        assert "TemperatureLimitCelsius" not in properties
        (image,) = status["consumers"]
        assert "used_mib_history" not in image, "a consumer without a unit is not attributed by NVML"
