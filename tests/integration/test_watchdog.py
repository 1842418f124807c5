"""The real daemon under a watchdog: what makes it fall silent, and what does not."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.live import Client, LiveHost, bare_host, table, wait_until

PERIOD_SEC = 1.0
SILENCE_SEC = 3 * PERIOD_SEC
"""systemd would have killed it by then, three times over."""


class Manager:
    """The service manager's end of the notification socket: all that was said, and when a ping came last."""

    def __init__(self, path: Path) -> None:
        self.said: list[str] = []
        self.pings = 0
        self._loop = asyncio.get_running_loop()
        self._pinged_at = self._loop.time()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self._loop.add_reader(self.socket, self._read)

    def _read(self) -> None:
        for line in self.socket.recv(65536).decode().split("\n"):
            self.said.append(line)
            if line == "WATCHDOG=1":
                self.pings, self._pinged_at = self.pings + 1, self._loop.time()

    async def pinged(self, times: int) -> bool:
        return self.pings >= times

    async def heard(self, line: str) -> bool:
        return line in self.said

    async def silent(self) -> bool:
        return self._loop.time() - self._pinged_at > SILENCE_SEC

    def close(self) -> None:
        self._loop.remove_reader(self.socket)
        self.socket.close()


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.close()


@pytest.fixture
async def host(tmp_path: Path, manager: Manager) -> AsyncIterator[LiveHost]:
    """A host whose daemon systemd keeps a watchdog on; it has no driver."""
    async with bare_host(tmp_path) as made:
        made.environ |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": str(int(PERIOD_SEC * 1e6))}
        made.configure("", gpu='source = "nvml"\nsample_interval_sec = 0.1\ntotal_mib = 24576')
        yield made


async def faulty(host: LiveHost, manager: Manager, fault: str) -> None:
    """Have the daemon running and pinging, and then the fault."""
    host.program = ("-m", "tests.integration.faulty_daemon", fault)
    await host.start()
    await wait_until("it pings", manager.pinged, 3)
    assert host.daemon is not None
    host.daemon.send_signal(signal.SIGUSR1)


@pytest.mark.parametrize("fault", ["loop-blocks", "step-raises", "step-blocks", "sampler-dies", "upkeep-ends"])
async def test_whatever_must_be_alive_silences_it_when_it_dies(host: LiveHost, manager: Manager, fault: str) -> None:
    await faulty(host, manager, fault)
    await wait_until(f"no ping for {SILENCE_SEC} s after {fault}", manager.silent)
    assert await host.end(signal.SIGKILL) == -signal.SIGKILL


async def test_a_driver_call_that_hangs_is_no_reason_to_die(host: LiveHost, manager: Manager) -> None:
    await faulty(host, manager, "driver-hangs")
    client = await host.client()

    async def degraded() -> bool:
        return "nvml-hangs" in (await client.status()).get("degraded", "")

    await wait_until("it says that the driver hangs", degraded)
    began, before = asyncio.get_running_loop().time(), manager.pings
    await wait_until("it goes on pinging", manager.pinged, before + 6)
    assert asyncio.get_running_loop().time() - began < 6 * PERIOD_SEC
    await client.close()


async def test_pings_come_twice_a_period_and_not_before_it_is_ready(host: LiveHost, manager: Manager) -> None:
    began = asyncio.get_running_loop().time()  # not when it was ready: that may be heard late, and pings at once
    await host.start()
    await wait_until("it pings", manager.pinged, 8)
    took_sec = asyncio.get_running_loop().time() - began
    assert manager.said.index("READY=1") < manager.said.index("WATCHDOG=1")
    assert took_sec > 2.5 * PERIOD_SEC, f"8 pings in {took_sec:.2f} s: it floods the manager"


async def test_a_hangup_during_the_start_is_heeded_when_it_is_ready(host: LiveHost, manager: Manager) -> None:
    gpu = 'source = "none"'
    alpha = await host.launch("alpha", 1000)
    await alpha.fault("hang", on="health")  # the first look at everything takes its time
    host.configure(table(alpha, 1000), gpu=gpu)
    starting = asyncio.create_task(host.start())
    await wait_until("it would survive a signal", catches_hangups, host)
    host.configure(table(alpha, 1000) + '[consumers.late]\nvram_resident_mib = 1\nunit = "late.service"\n', gpu=gpu)
    assert host.daemon is not None
    host.daemon.send_signal(signal.SIGHUP)
    await starting
    await wait_until("it has reloaded", manager.heard, "RELOADING=1")
    assert manager.said.index("READY=1") < manager.said.index("RELOADING=1"), "it was not ready before its name was"
    client = await host.client()
    await wait_until("what was new is in force", has_consumers, client, ["alpha", "late"])
    await client.close()


async def catches_hangups(host: LiveHost) -> bool:
    if host.daemon is None:
        return False
    text = await asyncio.to_thread(Path(f"/proc/{host.daemon.pid}/status").read_text)
    caught = next(line.split()[1] for line in text.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (signal.SIGHUP - 1) & 1)


async def has_consumers(client: Client, wanted: list[str]) -> bool:
    return [one["name"] for one in (await client.status())["consumers"]] == wanted


async def test_a_stop_says_so_and_asks_for_its_time(host: LiveHost, manager: Manager) -> None:
    await host.start()
    assert await host.end() == 0
    await wait_until("it asked for time", manager.heard, "EXTEND_TIMEOUT_USEC=30000000")
    assert "STOPPING=1" in manager.said
