"""The real daemon under a watchdog: faults that stop its pings, and faults that do not."""

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
"""Seconds without a ping after which systemd would have killed the daemon three times."""


class Manager:
    """The service manager's end of the notification socket: all messages, and the time of the last ping."""

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

    async def has_pinged(self, times: int) -> bool:
        return self.pings >= times

    async def has_received(self, line: str) -> bool:
        return line in self.said

    async def is_silent(self) -> bool:
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
    """A host whose daemon runs under a watchdog; it has no driver."""
    async with bare_host(tmp_path) as made:
        made.environ |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": str(int(PERIOD_SEC * 1e6))}
        made.configure("", gpu='source = "nvml"\nsample_interval_sec = 0.1\ntotal_mib = 24576')
        yield made


async def start_and_trigger_fault(host: LiveHost, manager: Manager, fault: str) -> None:
    """Start the daemon, wait for its pings, and trigger the fault."""
    host.program = ("-m", "tests.integration.faulty_daemon", fault)
    await host.start()
    await wait_until("the daemon pings", manager.has_pinged, 3)
    assert host.daemon is not None
    host.daemon.send_signal(signal.SIGUSR1)


@pytest.mark.parametrize("fault", ["loop-blocks", "step-raises", "step-blocks", "sampler-dies", "housekeeping-ends"])
async def test_each_failed_part_stops_the_pings(host: LiveHost, manager: Manager, fault: str) -> None:
    await start_and_trigger_fault(host, manager, fault)
    await wait_until(f"no ping for {SILENCE_SEC} s after {fault}", manager.is_silent)
    assert await host.end(signal.SIGKILL) == -signal.SIGKILL


async def test_hanging_driver_call_does_not_stop_the_pings(host: LiveHost, manager: Manager) -> None:
    await start_and_trigger_fault(host, manager, "driver-hangs")
    client = await host.client()

    async def degraded() -> bool:
        return "nvml-hangs" in (await client.status()).get("degraded", "")

    await wait_until("the hanging driver is reported", degraded)
    began, before = asyncio.get_running_loop().time(), manager.pings
    await wait_until("the daemon continues to ping", manager.has_pinged, before + 6)
    assert asyncio.get_running_loop().time() - began < 12 * PERIOD_SEC
    await client.close()


async def test_pings_are_sent_twice_per_period_after_ready(host: LiveHost, manager: Manager) -> None:
    began = asyncio.get_running_loop().time()  # not from READY on, which may arrive late
    await host.start()
    await wait_until("the daemon pings", manager.has_pinged, 8)
    took_sec = asyncio.get_running_loop().time() - began
    assert manager.said.index("READY=1") < manager.said.index("WATCHDOG=1")
    assert took_sec > 2.5 * PERIOD_SEC, f"8 pings in {took_sec:.2f} s: too many pings"


async def test_sighup_during_the_start_reloads_when_ready(host: LiveHost, manager: Manager) -> None:
    gpu = 'source = "none"'
    alpha = await host.launch("alpha", 1000)
    await alpha.fault("hang", on="health")  # the first refresh of all state takes some time
    host.configure(table(alpha, 1000), gpu=gpu)
    starting = asyncio.create_task(host.start())
    await wait_until("the daemon handles SIGHUP", catches_sighup, host)
    host.configure(table(alpha, 1000) + '[consumers.late]\nvram_resident_mib = 1\nunit = "late.service"\n', gpu=gpu)
    assert host.daemon is not None
    host.daemon.send_signal(signal.SIGHUP)
    await starting
    await wait_until("the daemon has reloaded", manager.has_received, "RELOADING=1")
    assert manager.said.index("READY=1") < manager.said.index("RELOADING=1"), "READY must not come before the bus name"
    client = await host.client()
    await wait_until("the new configuration is in force", has_consumers, client, ["alpha", "late"])
    await client.close()


async def catches_sighup(host: LiveHost) -> bool:
    if host.daemon is None:
        return False
    text = await asyncio.to_thread(Path(f"/proc/{host.daemon.pid}/status").read_text)
    caught = next(line.split()[1] for line in text.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (signal.SIGHUP - 1) & 1)


async def has_consumers(client: Client, wanted: list[str]) -> bool:
    return [one["name"] for one in (await client.status())["consumers"]] == wanted


async def test_stop_is_reported_and_requests_time(host: LiveHost, manager: Manager) -> None:
    await host.start()
    assert await host.end() == 0
    await wait_until("the daemon requested time for its end", manager.has_received, "EXTEND_TIMEOUT_USEC=30000000")
    assert "STOPPING=1" in manager.said
