"""What is measured: the real daemon on a bus of its own, the simulated device, real consumer processes, a client."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from gpumand.testing.bus import PrivateBus
from gpumand.testing.consumer_process import ConsumerProcess

NAME, PATH, MANAGER = "org.gpumand1", "/org/gpumand1", "org.gpumand1.Manager"
START_SEC = 30.0
TOTAL_MIB = 24564


class Failed(Exception):
    """An error reply; the message is its name and its text."""


class Client:
    """A client of the daemon, over the binding's low-level API."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus

    async def call(self, member: str, signature: str = "", body: Sequence[Any] = (), interface: str = MANAGER) -> Any:
        """Call a method of the manager's object; returns the reply's body. Raises Failed."""
        message = Message(NAME, PATH, interface, member, signature=signature, body=list(body))
        reply = await self._bus.call(message)
        assert reply is not None
        if reply.message_type is MessageType.ERROR:
            raise Failed(f"{reply.error_name}: {reply.body}")
        return reply.body

    async def ping(self) -> None:
        """One round trip to the daemon that asks nothing of gpumand."""
        await self.call("Ping", interface="org.freedesktop.DBus.Peer")

    async def acquire(self, consumer: str, **options: Variant) -> str:
        """Acquire; returns the lease."""
        body = await self.call("Acquire", "sa{sv}", [consumer, options])
        return str(body[0])

    async def release(self, lease: str) -> None:
        """Release."""
        await self.call("Release", "s", [lease])


@dataclass(frozen=True, slots=True)
class World:
    """What runs.

    Attributes:
        address: of the bus.
        pid: of the daemon.
        client: connected to it.
    """

    address: str
    pid: int
    client: Client


@contextlib.contextmanager
def workspace() -> Any:
    """A folder in memory where there is one, as /run is on a host."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="gpumand-benchmark-", dir=base) as folder:
        yield Path(folder)


@contextlib.asynccontextmanager
async def world(folder: Path, consumers: str, scheduler: str = "concurrent_leases = 0") -> AsyncIterator[World]:
    """Run the daemon over the simulated device.

    Args:
        folder: for its configuration and state; announcements are in ``simulator`` in it.
        consumers: the ``[consumers.…]`` tables.
        scheduler: lines of the ``[scheduler]`` table.
    """
    config = folder / "gpumand.toml"
    config.write_text(
        f'[scheduler]\n{scheduler}\n[gpu]\nsource = "simulated"\nsimulated_total_mib = [{TOTAL_MIB}]\n'
        f'simulated_dir = "{simulator(folder)}"\n{consumers}'
    )
    async with PrivateBus() as private:
        words = ["--config", str(config), "--bus-address", private.address]
        state = ["--state-dir", str(folder / "state")]
        command = [sys.executable, "-m", "gpumand", *words, *state]
        with (folder / "log").open("wb") as log:  # it logs as it does on a host, but not into the table
            daemon = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stderr=log)
        bus = await MessageBus(bus_address=private.address).connect()
        try:
            client = Client(bus)
            await _ready(client, daemon, folder / "log")
            yield World(private.address, daemon.pid, client)
        finally:
            bus.disconnect()
            await _end(daemon)


def simulator(folder: Path) -> Path:
    """Where consumers announce."""
    path = folder / "simulator"
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def table_of(consumer: ConsumerProcess, mib: int) -> str:
    """Its ``[consumers.…]`` table."""
    return (
        f'[consumers.{consumer.name}]\nvram_resident_mib = {mib}\nurl = "{consumer.url}"\n'
        'health = { path = "/health", loaded = "/model_loaded", last_used = "/last_used" }\n'
        'load = { path = "/api/admin/load" }\nunload = { path = "/api/admin/unload" }\n'
    )


def plain(value: Any) -> Any:
    """A reply's body without the binding's wrapping."""
    if isinstance(value, Variant):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


async def _ready(client: Client, daemon: Process, log: Path) -> None:
    async with asyncio.timeout(START_SEC):
        while True:
            if daemon.returncode is not None:
                raise _ended(daemon, log)
            with contextlib.suppress(Failed):
                await client.call("GetStatus")
                return
            await asyncio.sleep(0.05)


def _ended(daemon: Process, log: Path) -> RuntimeError:
    return RuntimeError(f"the daemon ended with status {daemon.returncode}: {log.read_text()}")


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), 10)
    except TimeoutError:
        process.kill()
        await process.wait()
