"""Runs the real daemon for the benchmarks: on its own bus, with the simulated device, and a client connected to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from gpumand.testing.bus import PrivateBus
from gpumand.testing.consumer_process import ConsumerProcess

NAME, PATH, MANAGER = "org.gpumand1", "/org/gpumand1", "org.gpumand1.Manager"
START_SEC = 180.0
UNITS = Path(__file__).parents[1] / "systemd"
TOTAL_MIB = 24564


class CallFailed(Exception):
    """The daemon answered with an error; the message is the error's name and text."""


class Client:
    """A client of the daemon that uses dbus-fast's low-level API."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus

    async def call(self, member: str, signature: str = "", body: Sequence[Any] = (), interface: str = MANAGER) -> Any:
        """Call a method of the manager object; returns the reply's body. Raises CallFailed."""
        message = Message(NAME, PATH, interface, member, signature=signature, body=list(body))
        reply = await self._bus.call(message)
        assert reply is not None
        if reply.message_type is MessageType.ERROR:
            raise CallFailed(f"{reply.error_name}: {reply.body}")
        return reply.body

    async def ping(self) -> None:
        """One round trip to the daemon's connection, without its dispatcher, permissions or arbiter."""
        await self.call("Ping", interface="org.freedesktop.DBus.Peer")

    async def acquire(self, consumer: str, **options: Variant) -> str:
        """Call Acquire with these options; returns the id of the lease."""
        body = await self.call("Acquire", "sa{sv}", [consumer, options])
        return str(body[0])

    async def release(self, lease: str) -> None:
        """Release a lease."""
        await self.call("Release", "s", [lease])


@dataclass(frozen=True, slots=True)
class RunningDaemon:
    """A running daemon.

    Attributes:
        address: address of its bus.
        pid: process id of the daemon.
        client: a client connected to it.
    """

    address: str
    pid: int
    client: Client


@contextlib.contextmanager
def workspace() -> Any:
    """A temporary folder, in memory if possible: on a host the daemon's state is in /run, which is memory too."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="gpumand-benchmark-", dir=base) as folder:
        yield Path(folder)


def unit_environment(unit: str) -> dict[str, str]:
    """The environment variables that a system unit sets for its service."""
    lines = (UNITS / f"{unit}.service").read_text().splitlines()
    given = (line.removeprefix("Environment=") for line in lines if line.startswith("Environment="))
    return dict(one.split("=", 1) for one in given)


@contextlib.asynccontextmanager
async def running_daemon(
    folder: Path,
    consumers: str,
    scheduler: str = "concurrent_leases = 0",
    command_prefix: Sequence[str] = (),
    units: Collection[str] = (),
) -> AsyncIterator[RunningDaemon]:
    """Run the daemon over the simulated device.

    Args:
        folder: its configuration, state and VRAM announcements are in this folder.
        consumers: the ``[consumers.…]`` tables.
        scheduler: the lines of the ``[scheduler]`` table.
        command_prefix: a program with its arguments that runs the daemon, such as valgrind.
        units: names of inactive units, which a fake systemd on the bus knows; without any there is no systemd.
    """
    config = folder / "gpumand.toml"
    config.write_text(
        f'[scheduler]\n{scheduler}\n[gpu]\nsource = "simulated"\nsimulated_total_mib = [{TOTAL_MIB}]\n'
        f'simulated_dir = "{announcement_folder(folder)}"\n{consumers}'
    )
    async with PrivateBus() as private, _systemd(private.address, folder, units):
        options = ["--config", str(config), "--bus-address", private.address]
        state = ["--state-dir", str(folder / "state")]
        command = [*command_prefix, sys.executable, "-m", "gpumand", *options, *state]
        environ = os.environ | unit_environment("gpumand")
        with (folder / "log").open("wb") as log:  # as much logging as on a host, but not into the table
            daemon = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stderr=log, env=environ)
        bus = await MessageBus(bus_address=private.address).connect()
        try:
            client = Client(bus)
            await _wait_until_ready(client, daemon, folder / "log")
            yield RunningDaemon(private.address, daemon.pid, client)
        finally:
            bus.disconnect()
            await _stop(daemon)


@contextlib.asynccontextmanager
async def _systemd(address: str, folder: Path, units: Collection[str]) -> AsyncIterator[None]:
    """A fake systemd with these units on the bus at an address; none without units."""
    if not units:
        yield
        return
    file = folder / "units.json"
    file.write_text(json.dumps({unit: {} for unit in units}))
    command = ["-m", "gpumand.testing.systemd1", "--bus-address", address, "--units", str(file)]
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stdin=DEVNULL, stdout=PIPE)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(START_SEC):
            await process.stdout.readline()
        yield
    finally:
        await _stop(process)


def announcement_folder(folder: Path) -> Path:
    """The folder in which consumer processes announce their VRAM to the simulated device; created if necessary."""
    path = folder / "simulator"
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def consumer_table(consumer: ConsumerProcess, mib: int) -> str:
    """The ``[consumers.…]`` table of a consumer process."""
    return (
        f'[consumers.{consumer.name}]\nvram_resident_mib = {mib}\nurl = "{consumer.url}"\n'
        'health = { path = "/health", loaded = "/model_loaded", last_used = "/last_used" }\n'
        'load = { path = "/api/admin/load" }\nunload = { path = "/api/admin/unload" }\n'
    )


def unwrap(value: Any) -> Any:
    """A reply's body with all variants replaced by their values."""
    if isinstance(value, Variant):
        return unwrap(value.value)
    if isinstance(value, Mapping):
        return {key: unwrap(inner) for key, inner in value.items()}
    return [unwrap(inner) for inner in value] if isinstance(value, list) else value


async def _wait_until_ready(client: Client, daemon: Process, log: Path) -> None:
    async with asyncio.timeout(START_SEC):
        while True:
            if daemon.returncode is not None:
                raise _exit_error(daemon, log)
            with contextlib.suppress(CallFailed):
                await client.call("GetStatus")
                return
            await asyncio.sleep(0.05)


def _exit_error(daemon: Process, log: Path) -> RuntimeError:
    return RuntimeError(f"the daemon exited with status {daemon.returncode}: {log.read_text()}")


async def _stop(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), 10)
    except TimeoutError:
        process.kill()
        await process.wait()
