"""The real daemon on a private bus with real consumer processes; tests may kill and restart the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpumand.bus import names
from gpumand.bus.connection import BusConnection, BusError, Signal
from gpumand.bus.variants import to_variants, unwrap
from gpumand.testing.bus import PrivateBus
from gpumand.testing.consumer_process import ConsumerProcess, consumer_process

TOTAL_MIB = 24564
DEADLINE_SEC = 30.0


async def wait_until(
    what: str, condition: Callable[..., Awaitable[bool]], *arguments: Any, within_sec: float = DEADLINE_SEC
) -> None:
    """Poll until a condition holds. Raises AssertionError with its description on a timeout."""
    deadline = asyncio.get_running_loop().time() + within_sec
    while not await condition(*arguments):
        assert asyncio.get_running_loop().time() < deadline, f"condition not met after {within_sec:g} s: {what}"
        await asyncio.sleep(0.05)


class Client:
    """A bus client that calls the Manager and receives its signals."""

    def __init__(self, bus: BusConnection) -> None:
        self.bus = bus
        self.signals: list[Signal] = []

    @classmethod
    async def connect(cls, address: str, *, listen: bool = False) -> Client:
        """Connect to the bus; with ``listen`` also receive the Manager's signals."""
        client = cls(await BusConnection.connect(address))
        if listen:
            await client.bus.subscribe(callback=client.signals.append, sender=names.BUS_NAME, interface=names.MANAGER)
        return client

    async def call(self, member: str, signature: str = "", *body: Any, timeout_sec: float = 120.0) -> tuple[Any, ...]:
        """Call the Manager. Raises BusError."""
        return await self.bus.call(
            names.BUS_NAME, names.ROOT_PATH, names.MANAGER, member, signature, body, timeout_sec=timeout_sec
        )

    async def acquire(self, consumer: str, **options: tuple[str, Any]) -> tuple[str, dict[str, Any]]:
        """Call Acquire; options are (signature, value). Returns the lease and the grant."""
        lease, grant = await self.call("Acquire", "sa{sv}", consumer, to_variants(options))
        return str(lease), dict(grant)

    def start_acquire(self, consumer: str, **options: tuple[str, Any]) -> asyncio.Task[tuple[str, dict[str, Any]]]:
        """Start an Acquire as a task, with a long timeout unless given."""
        options = {"timeout_usec": ("t", 120_000_000)} | options
        return asyncio.create_task(self.acquire(consumer, **options))

    def received(self, member: str) -> list[tuple[Any, ...]]:
        """The bodies of all signals received with that name, values unwrapped."""
        return [tuple(unwrap(list(signal.body))) for signal in self.signals if signal.member == member]

    async def property(self, name: str) -> Any:
        """Read a property of the Manager."""
        where = (names.BUS_NAME, names.ROOT_PATH, names.PROPERTIES)
        (value,) = await self.bus.call(*where, "Get", "ss", (names.MANAGER, name), timeout_sec=30.0)
        return unwrap(value)

    async def release(self, lease: str) -> None:
        """Release a lease."""
        await self.call("Release", "s", lease)

    async def status(self) -> dict[str, Any]:
        """Call GetStatus."""
        (status,) = await self.call("GetStatus")
        return dict(status)

    async def consumer(self, name: str) -> dict[str, Any]:
        """Get one consumer of the status."""
        return next(one for one in (await self.status())["consumers"] if one["name"] == name)

    async def close(self) -> None:
        """Disconnect from the bus."""
        await self.bus.close()


@dataclass
class LiveHost:
    """A host with a daemon that can be started, stopped and killed.

    Attributes:
        folder: the folder for all files.
        bus: the private bus.
        consumers: running consumer processes by name.
        daemon: the process of the daemon.
        environ: environment variables of the daemon in addition to those of the test.
        program: the Python arguments that run the daemon.
        passed: descriptors that it gets.
        stack: what is to be ended with the host.
    """

    folder: Path
    bus: PrivateBus
    stack: contextlib.AsyncExitStack
    consumers: dict[str, ConsumerProcess] = field(default_factory=dict)
    daemon: Process | None = None
    environ: dict[str, str] = field(default_factory=dict)
    program: tuple[str, ...] = ("-m", "gpumand")
    passed: tuple[int, ...] = ()

    @property
    def simulator(self) -> Path:
        """The folder in which consumers announce the memory they hold."""
        path = self.folder / "simulator"
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    @property
    def log(self) -> str:
        """The log of all daemon processes of this host."""
        path = self.folder / "daemon.log"
        return path.read_text(errors="replace") if path.exists() else ""

    async def launch(self, name: str, mib: int, *flags: str) -> ConsumerProcess:
        """Start a consumer process, which ends with the host."""
        total = ("--device-total", str(TOTAL_MIB))
        context = consumer_process(name, mib, self.simulator, *total, *flags)
        self.consumers[name] = consumer = await self.stack.enter_async_context(context)
        return consumer

    def configure(self, consumers: str, scheduler: str = "concurrent_leases = 0", gpu: str = "") -> None:
        """Write the configuration file."""
        gpu = gpu or f'source = "simulated"\nsimulated_total_mib = [{TOTAL_MIB}]\nsimulated_dir = "{self.simulator}"'
        # Turns would make each test wait that evicts what it has just loaded; tests of turns set their own.
        turns = "" if "min_turn_sec" in scheduler else "min_turn_sec = 0\n"
        text = f"[scheduler]\n{turns}{scheduler}\n[gpu]\n{gpu}\n{consumers}"
        (self.folder / "gpumand.toml").write_text(text, encoding="utf-8")

    async def start(self) -> None:
        """Start the daemon and wait until it owns its name."""
        arguments = ["--config", str(self.folder / "gpumand.toml"), "--bus-address", self.bus.address]
        arguments += ["--state-dir", str(self.folder / "state")]
        with (self.folder / "daemon.log").open("ab") as log:
            command, environ = (sys.executable, *self.program, *arguments), os.environ | self.environ
            self.daemon = await asyncio.create_subprocess_exec(*command, stderr=log, env=environ, pass_fds=self.passed)
        probe = await Client.connect(self.bus.address)
        try:
            await wait_until("the daemon answers", lambda: self._answers(probe))
        finally:
            await probe.close()

    async def _answers(self, probe: Client) -> bool:
        assert self.daemon is not None
        assert self.daemon.returncode is None, f"the daemon ended with {self.daemon.returncode}:\n{self.log}"
        try:
            await probe.status()
        except BusError:
            return False
        return True

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal to the daemon and wait for its end; returns its exit status."""
        assert self.daemon is not None
        if self.daemon.returncode is None:
            self.daemon.send_signal(number)
        async with asyncio.timeout(DEADLINE_SEC):
            return await self.daemon.wait()

    async def client(self, *, listen: bool = False) -> Client:
        """Connect another client."""
        return await Client.connect(self.bus.address, listen=listen)


def table(consumer: ConsumerProcess, mib: int, **more: str) -> str:
    """A ``[consumers.…]`` table for a routed consumer process; ``more`` are further keys, as TOML."""
    keys = {
        "vram_resident_mib": str(mib),
        "url": f'"{consumer.url}"',
        "health": '{ path = "/health", loaded = "/model_loaded" }',
        "load": '{ path = "/api/admin/load" }',
        "unload": '{ path = "/api/admin/unload" }',
    } | more
    return f"[consumers.{consumer.name}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items() if value)


async def error_of(work: Awaitable[Any]) -> BusError:
    """The error that a call ends with. Raises AssertionError when it succeeds."""
    try:
        result = await work
    except BusError as error:
        return error
    raise AssertionError(f"it succeeded: {result}")


def run_queue_sec(pid: int) -> float:
    """Seconds for which a process was ready and the kernel ran others; 0 where the kernel does not count them."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


@contextlib.asynccontextmanager
async def status_answers_fast(host: LiveHost, within_sec: float = 1.0) -> AsyncIterator[None]:
    """Check that GetStatus is answered fast during the whole block.

    Time in which a busy machine ran neither the daemon nor this test does not count.
    """
    client, slowest_sec = await host.client(), 0.0
    clock = asyncio.get_running_loop().time

    def kept_waiting_sec() -> float:
        return sum(run_queue_sec(pid) for pid in (os.getpid(), host.daemon.pid if host.daemon else 0))

    async def look() -> None:
        nonlocal slowest_sec
        while True:
            began, kept_sec = clock(), kept_waiting_sec()
            await client.status()
            slowest_sec = max(slowest_sec, clock() - began - (kept_waiting_sec() - kept_sec))
            await asyncio.sleep(0.05)

    looking = asyncio.create_task(look())
    try:
        yield
    finally:
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking
        await client.close()
    assert slowest_sec < within_sec, f"GetStatus took {slowest_sec:.2f} s"


@contextlib.asynccontextmanager
async def bare_host(folder: Path) -> AsyncIterator[LiveHost]:
    """A host with a bus only: the test starts consumers, configuration and daemon."""
    async with contextlib.AsyncExitStack() as stack:
        host = LiveHost(folder, await stack.enter_async_context(PrivateBus()), stack)
        try:
            yield host
        finally:
            if host.daemon is not None:
                await host.end()


@contextlib.asynccontextmanager
async def live_host(folder: Path, sizes: dict[str, int], *flags: str, **config: str) -> AsyncIterator[LiveHost]:
    """A host with consumers of these sizes (MiB), each in its own process, and a daemon with all of them configured.

    Args:
        folder: an empty folder.
        sizes: footprint by name.
        flags: for every consumer process.
        config: ``scheduler=`` and ``gpu=`` as ``LiveHost.configure`` takes them.
    """
    async with bare_host(folder) as host:
        await asyncio.gather(*(host.launch(name, mib, *flags) for name, mib in sizes.items()))
        host.configure("".join(table(host.consumers[name], mib) for name, mib in sizes.items()), **config)
        await host.start()
        yield host
