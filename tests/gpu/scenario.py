"""The GPU tests: the real daemon, real NVML calls, and real processes that hold gigabytes.

``GpuSetup`` is the setup (a bus, a fake systemd with real processes, the daemon), and ``run_scenario`` is the scenario
that runs on it, with a real driver and with the fake one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from gpumand.bus.connection import BusConnection, BusError, Signal
from gpumand.bus.names import BUS_NAME
from gpumand.bus.variants import to_variants
from gpumand.testing.bus import PrivateBus

ROOT = Path(__file__).parents[2]
MANAGER_PATH, MANAGER = "/org/gpumand1", "org.gpumand1.Manager"
DEADLINE_SEC = 120.0
"""Long enough for a cold import of PyTorch and the creation of a CUDA context on a busy machine."""

RESIDUAL_MIB = 900
"""MiB that a process may keep after an unload: its CUDA context (300 to 600 MiB, depending on GPU and driver)."""


@dataclass(frozen=True)
class Place:
    """The kind of memory: "cuda", or "shim" with the directory and the environment that the fake NVML needs."""

    device: str
    directory: Path | None = None
    environment: dict[str, str] | None = None


@dataclass(frozen=True)
class Member:
    """One consumer with the unit ``NAME.service``; without routes, only stopping the unit frees its memory."""

    name: str
    mib: int
    port: int
    has_routes: bool

    @property
    def unit(self) -> str:
        return f"{self.name}.service"

    @property
    def footprint_mib(self) -> int:
        return self.mib + RESIDUAL_MIB

    def argv(self, place: Place) -> list[str]:
        command = [sys.executable, "-m", "tests.gpu.torch_consumer", f"--port={self.port}", f"--mib={self.mib}"]
        command += [f"--device={place.device}"] + ([f"--shim-dir={place.directory}"] if place.directory else [])
        return command if self.has_routes else [*command, "--load-at-start"]

    def toml(self) -> str:
        lines = [
            f"[consumers.{self.name}]",
            f'unit = "{self.unit}"',
            f"vram_resident_mib = {self.footprint_mib}",
            f'url = "http://127.0.0.1:{self.port}"',
            'health = { path = "/health", loaded = "/model_loaded" }',
            f"load_timeout_sec = {DEADLINE_SEC}",
        ]
        if self.has_routes:
            lines += [
                f"residual_mib = {RESIDUAL_MIB}",
                f'load = {{ path = "/api/admin/load", timeout_sec = {DEADLINE_SEC} }}',
                'unload = { path = "/api/admin/unload", timeout_sec = 30 }',
            ]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Eviction:
    """A received EvictionOccurred signal."""

    consumer: str
    freed_mib: int
    method: str
    trigger: str
    details: dict[str, Any]
    received_at: float

    @property
    def duration_sec(self) -> float:
        return float(self.details["duration_usec"]) / 1e6


class Client:
    """A client of the daemon, which also receives its signals."""

    def __init__(self, bus: BusConnection) -> None:
        self._bus = bus
        self.evictions: list[Eviction] = []

    async def listen(self) -> None:
        await self._bus.subscribe(sender=BUS_NAME, path=MANAGER_PATH, interface=MANAGER, callback=self._on_signal)

    async def call(self, member: str, signature: str = "", *body: Any) -> tuple[Any, ...]:
        return await self._bus.call(
            BUS_NAME, MANAGER_PATH, MANAGER, member, signature, body, timeout_sec=DEADLINE_SEC + 10
        )

    async def acquire(self, consumer: str) -> tuple[str, dict[str, Any]]:
        options = to_variants({"timeout_usec": ("t", int(DEADLINE_SEC * 1e6)), "reason": ("s", "the GPU test")})
        lease, grant = await self.call("Acquire", "sa{sv}", consumer, options)
        return str(lease), grant

    async def release(self, lease: str) -> None:
        await self.call("Release", "s", lease)

    async def status(self) -> dict[str, Any]:
        (status,) = await self.call("GetStatus")
        return dict(status)

    async def device(self) -> dict[str, Any]:
        return dict((await self.status())["devices"][0])

    async def consumer(self, name: str) -> dict[str, Any]:
        return next(dict(one) for one in (await self.status())["consumers"] if one["name"] == name)

    def _on_signal(self, signal: Signal) -> None:
        if signal.member == "EvictionOccurred":
            consumer, _, freed_mib, method, trigger, details = signal.body
            self.evictions.append(Eviction(consumer, freed_mib, method, trigger, details, time.monotonic()))


async def wait_until(description: str, condition: Callable[[], Awaitable[bool]], within_sec: float = 30.0) -> None:
    """Poll until a condition is true. Raises AssertionError with its description after the timeout."""
    deadline = time.monotonic() + within_sec
    while not await condition():
        assert time.monotonic() < deadline, f"not within {within_sec:g} s: {description}"
        await asyncio.sleep(0.05)


def free_port() -> int:
    """Return a free TCP port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class GpuSetup:
    """The setup of the test; ``async with gpu_setup(...)`` creates one."""

    def __init__(
        self, folder: Path, place: Place, members: tuple[Member, ...], client: Client, bus_address: str
    ) -> None:
        self.folder = folder
        self.place = place
        self.members = {member.name: member for member in members}
        self.client = client
        self._bus_address = bus_address
        self._started: list[Process] = []

    async def start(self) -> None:
        units = {one.unit: {"argv": one.argv(self.place), "output": self._log(one.name)} for one in self._members()}
        self._write("units.json", json.dumps(units))
        config = '[gpu]\nsource = "nvml"\nsample_interval_sec = 0.5\n[scheduler]\nhealth_interval_sec = 0.5\n'
        self._write("gpumand.toml", config + "".join(member.toml() for member in self._members()))
        await self._run("systemd", "gpumand.testing.systemd1", "--units", str(self.folder / "units.json"))
        files = ("--config", str(self.folder / "gpumand.toml"), "--state-dir", str(self.folder / "state"))
        await self._run("daemon", "gpumand", *files)
        await wait_until("the daemon is on the bus", self._answers)
        await self.client.listen()

    async def stop(self) -> None:
        """Stop all processes, the daemon first."""
        for process in reversed(self._started):
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.wait(), 30)

    def logs(self) -> str:
        """Return the logs of all processes."""
        files = sorted(self.folder.glob("*.log"))
        return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')}" for file in files)

    async def events(self, name: str) -> dict[str, float]:
        """Return the times of the consumer's last load and unload in CLOCK_MONOTONIC seconds."""
        url = f"http://127.0.0.1:{self.members[name].port}/events"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return dict(await answer.json())

    def pid_of(self, name: str) -> int:
        """Return the pid of a consumer's process, found by the port in its command line."""
        wanted = f"--port={self.members[name].port}".encode()
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if folder.name.isdigit() and wanted in (folder / "cmdline").read_bytes().split(b"\0"):
                    return int(folder.name)
        raise AssertionError(f"{name} has no process")

    def _members(self) -> list[Member]:
        return list(self.members.values())

    async def _answers(self) -> bool:
        ended = [process.pid for process in self._started if process.returncode is not None]
        assert not ended, self.logs()
        try:
            await self.client.status()
        except BusError:
            return False
        return True

    async def _run(self, name: str, module: str, *arguments: str) -> None:
        log = os.open(self._log(name), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", module, "--bus-address", self._bus_address, *arguments),
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"} | (self.place.environment or {}),
            )
        finally:
            os.close(log)
        self._started.append(process)

    def _log(self, name: str) -> str:
        return str(self.folder / f"{name}.log")

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")


@contextlib.asynccontextmanager
async def gpu_setup(folder: Path, place: Place, free_mib: int) -> AsyncIterator[GpuSetup]:
    """Set up everything for a device with this much free memory: three consumers of which no two fit together."""
    mib = int((free_mib - 3 * RESIDUAL_MIB) * 0.6)
    members = (
        Member("http_one", mib, free_port(), has_routes=True),
        Member("http_two", mib, free_port(), has_routes=True),
        Member("unit_only", mib, free_port(), has_routes=False),
    )
    async with PrivateBus() as bus:
        connection = await BusConnection.connect(bus.address)
        setup = GpuSetup(folder, place, members, Client(connection), bus.address)
        try:
            await setup.start()
            yield setup
        except BaseException:
            print(setup.logs())
            raise
        finally:
            await setup.stop()
            await connection.close()


async def run_scenario(setup: GpuSetup) -> None:
    """Test acquire, eviction by each method, load, attribution, and a consumer that is killed."""
    before = await setup.client.device()
    assert before["error"] == "", before
    assert before["source"] == "nvml"
    settle_sec = {"http": await http_evictions(setup), "unit-stop": await unit_evictions(setup)}
    await killed_consumer(setup)
    for method, (eviction, settled_sec) in settle_sec.items():
        print(
            f"\n{method}: {eviction.freed_mib} MiB free {settled_sec * 1000:.0f} ms after the consumer released it, "
            f"whole eviction {eviction.duration_sec * 1000:.0f} ms"
        )


async def http_evictions(setup: GpuSetup) -> tuple[Eviction, float]:
    """Evict one consumer by its unload route for another; its process keeps running."""
    client = setup.client
    await use(setup, "http_one", evicting=[])
    pid = setup.pid_of("http_one")
    await use(setup, "http_two", evicting=["http_one"])
    eviction = client.evictions[-1]
    check(setup, eviction, method="http", trigger="http_two")
    assert setup.pid_of("http_one") == pid, "the unload route is enough: the unit keeps running"
    freed_at = (await setup.events("http_one"))["freed"]
    assert (await client.consumer("http_one"))["residency"] == "unloaded"
    return eviction, eviction.received_at - freed_at


async def unit_evictions(setup: GpuSetup) -> tuple[Eviction, float]:
    """Evict a consumer without routes by stopping its unit."""
    client = setup.client
    await use(setup, "unit_only", evicting=["http_two"])
    with watch_exit(setup.pid_of("unit_only")) as ended_at:
        await use(setup, "http_one", evicting=["unit_only"])
        eviction = client.evictions[-1]
        check(setup, eviction, method="unit-stop", trigger="http_one")
        assert ended_at.done(), "the process must end before its memory is reported as free"
        return eviction, eviction.received_at - ended_at.result()


@contextlib.contextmanager
def watch_exit(pid: int) -> Iterator[asyncio.Future[float]]:
    """Yield a future that is set to the monotonic time in seconds at which a process ends."""
    loop = asyncio.get_running_loop()
    ended_at: asyncio.Future[float] = loop.create_future()
    descriptor = os.pidfd_open(pid)

    def set_time() -> None:
        loop.remove_reader(descriptor)
        ended_at.set_result(time.monotonic())

    loop.add_reader(descriptor, set_time)
    try:
        yield ended_at
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def killed_consumer(setup: GpuSetup) -> None:
    """Kill a resident process: the daemon notices the free memory and loads the consumer again on request."""
    client = setup.client
    os.kill(setup.pid_of("http_one"), 9)

    async def is_noticed() -> bool:
        state = await client.consumer("http_one")
        free_mib = (await client.device())["free_mib"]
        is_unloaded = state["residency"] != "resident" and not state.get("used_mib")
        return is_unloaded and free_mib > setup.members["http_one"].footprint_mib + 256

    await wait_until("the death of http_one is noticed, and its memory free", is_noticed)
    await use(setup, "http_one", evicting=[])


async def use(setup: GpuSetup, name: str, evicting: list[str]) -> None:
    """Lease a consumer, check its memory and its attribution by pid, and release the lease."""
    client, member = setup.client, setup.members[name]
    evictions_before = len(client.evictions)
    lease, grant = await client.acquire(name)
    assert grant["evicted"] == evicting
    assert grant["loaded"] is True
    assert [one.consumer for one in client.evictions[evictions_before:]] == evicting, "announced before the grant"

    async def is_shown() -> bool:
        state = await client.consumer(name)
        return state["residency"] == "resident" and (state.get("used_mib") or 0) >= member.mib

    await wait_until(f"{name} is resident and its memory attributed to its unit by pid", is_shown)
    state, device = await client.consumer(name), await client.device()
    assert member.mib <= state["used_mib"] <= member.footprint_mib, (
        "its tensor and a context, no memory of other processes"
    )
    assert state["leases"] == 1
    assert device["used_mib"] >= state["used_mib"]
    await client.release(lease)


def check(setup: GpuSetup, eviction: Eviction, *, method: str, trigger: str) -> None:
    """Assert that an eviction used only this method, was verified, and freed the memory."""
    assert (eviction.method, eviction.trigger, eviction.details["tried"]) == (method, trigger, [method])
    assert eviction.details["verified"] is True
    assert eviction.freed_mib >= setup.members[eviction.consumer].mib * 9 // 10
