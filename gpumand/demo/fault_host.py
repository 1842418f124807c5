"""A host for faults: services as units of a simulated systemd, and a daemon that can be killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from gpumand.bus.connection import BusConnection
from gpumand.bus.names import PROPERTIES, SYSTEMD, SYSTEMD_MANAGER, SYSTEMD_PATH, SYSTEMD_UNIT
from gpumand.bus.variants import unwrap
from gpumand.client import Client
from gpumand.demo.environment import START_SEC, DemoEnvironment, EnvironmentFailed
from gpumand.demo.example_services import ADMIN_ROUTES, SETTINGS, SHORT_SETTLE, TOTAL_MIB
from gpumand.testing.ports import free_ports

DEADLINE_SEC = 60.0
POLL_SEC = 0.05
LATE_SEC = 2.0
SETTLE_SEC = 6
"""How long the daemon waits for freed memory: longer than ``LATE_SEC`` also on a slow machine."""
ANSWER_LIMIT = aiohttp.ClientTimeout(total=DEADLINE_SEC)


class NotSeen(Exception):
    """What gpumand does with a fault was not seen; the message is one line."""


@dataclass(frozen=True, slots=True)
class FaultyService:
    """A service that runs in a unit of its own.

    Attributes:
        name: its consumer name.
        mib: its footprint in MiB.
        flags: command line options of its process.
        command: its command, instead of a simulated model.
        has_unload_route: whether it can be unloaded by HTTP; otherwise its unit is stopped.
    """

    name: str
    mib: int
    flags: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    has_unload_route: bool = True

    @property
    def unit(self) -> str:
        return f"{self.name}.service"

    def table(self, port: int) -> str:
        """The TOML of its consumer."""
        text = f'[consumers.{self.name}]\nunit = "{self.unit}"\nvram_resident_mib = {self.mib}\n'
        if self.command:
            return text
        routes = "".join(
            line for line in ADMIN_ROUTES.splitlines(keepends=True) if self.has_unload_route or "unload" not in line
        )
        return f'{text}url = "http://127.0.0.1:{port}"\n{routes}'


CHAT = FaultyService("chat", 16000, ("--load-sec=0.8",), has_unload_route=False)
IMAGE = FaultyService("image", 15000, ("--load-sec=2.5",))
LATE = FaultyService("late", 15000, ("--load-sec=0.3", "--async-unload", f"--unload-sec={LATE_SEC}"))
LIAR = FaultyService("liar", 15000, ("--load-sec=0.3", "--fault=lying-unload"))
BROKEN = FaultyService("broken", 4000, command=("sh", "-c", "echo no model file >&2; exit 3"))
SERVICES = (CHAT, IMAGE, LATE, LIAR, BROKEN)


class FaultHost(DemoEnvironment):
    """The processes of the demonstration of faults.

    Attributes:
        client: a client of gpumand; it exists as soon as the context is entered.
    """

    client: Client

    async def _start(self) -> None:
        self._start_bus()
        self.address = self._bus.address
        (self.folder / "vram").mkdir(mode=0o700)
        ports = free_ports(len(SERVICES))
        self.urls = {one.name: f"http://127.0.0.1:{port}" for one, port in zip(SERVICES, ports, strict=True)}
        await self._start_systemd(dict(zip(SERVICES, ports, strict=True)))
        self._config = self.folder / "gpumand.toml"
        tables = "".join(one.table(port) for one, port in zip(SERVICES, ports, strict=True))
        settings = SETTINGS.format(total=TOTAL_MIB, folder=json.dumps(str(self._vram)))
        self._config.write_text(settings.replace(SHORT_SETTLE, f"settle_timeout_sec = {SETTLE_SEC}") + tables)
        await self._start_daemon(self._config)
        self.client = Client(self.address)
        await self.client.connect()

    async def _end(self) -> None:
        if hasattr(self, "client"):
            await self.client.close()
        await super()._end()

    @property
    def _vram(self) -> Path:
        return self.folder / "vram"

    async def _start_systemd(self, ports: dict[FaultyService, int]) -> None:
        units = {one.unit: {"argv": self._command(one, port)} for one, port in ports.items()}
        file = self.folder / "units.json"
        file.write_text(json.dumps(units))
        flags = (f"--bus-address={self.address}", f"--units={file}")
        systemd = await self._spawn("systemd", "gpumand.testing.systemd1", *flags, piped=True)
        assert systemd.stdout is not None
        try:
            async with asyncio.timeout(START_SEC):
                line = await systemd.stdout.readline()
        except TimeoutError:
            line = b""
        if line != b"READY\n":
            raise EnvironmentFailed(f"the simulated systemd could not be started: {self._log_line('systemd')}")

    def _command(self, service: FaultyService, port: int) -> list[str]:
        if service.command:
            return list(service.command)
        where = [f"--name={service.name}", f"--mib={service.mib}", f"--port={port}", f"--simulator-dir={self._vram}"]
        # With the size of the device a load that does not fit fails, as it would with CUDA.
        words = [*where, f"--device-total={TOTAL_MIB}", "--load-steps=20", *service.flags]
        return [sys.executable, "-P", "-m", "gpumand.testing.consumer", *words]

    # -- what happens on the host ------------------------------------------------------------------------------------

    async def stop_unit(self, service: FaultyService) -> None:
        """Stop the unit of a service and wait until it has stopped, as ``systemctl stop`` does."""
        connection = await BusConnection.connect(self.address)
        systemd = (SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER)
        try:
            (path,) = await connection.call(*systemd, "GetUnit", "s", (service.unit,))

            async def is_stopped() -> bool:
                where = (SYSTEMD, path, PROPERTIES)
                (state,) = await connection.call(*where, "Get", "ss", (SYSTEMD_UNIT, "ActiveState"))
                return str(unwrap(state)) == "inactive"

            await connection.call(*systemd, "StopUnit", "ss", (service.unit, "replace"))
            await wait_until(f"{service.unit} has stopped", is_stopped)
        finally:
            await connection.close()

    async def kill_daemon(self) -> None:
        """Kill the daemon with SIGKILL and start it again, as systemd does with Restart=."""
        daemon = self._daemon
        assert daemon is not None
        daemon.kill()
        await daemon.wait()
        await self._start_daemon(self._config)

    async def start_command(self, *words: str) -> Process:
        """Start a gpumanctl of its own, for example as a client that is killed."""
        return await self._spawn("gpumanctl", "gpumand.cli", f"--bus-address={self.address}", *words)

    @contextlib.asynccontextmanager
    async def foreign_process(self, name: str, mib: int) -> AsyncIterator[Process]:
        """Run a process that holds memory and belongs to no consumer."""
        where = (f"--name={name}", f"--mib={mib}", f"--simulator-dir={self._vram}")
        process = await self._spawn(
            name, "gpumand.testing.consumer", *where, "--anonymous", "--loaded-at-start", piped=True
        )
        assert process.stdout is not None
        try:
            async with asyncio.timeout(START_SEC):
                await process.stdout.readline()
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            await process.wait()

    # -- what can be seen --------------------------------------------------------------------------------------------

    async def health(self, service: FaultyService) -> dict[str, Any]:
        """The answer of a service's health route."""
        return dict(await self._get(service, "/health"))

    async def times(self, service: FaultyService, word: str) -> list[float]:
        """When a service noted an event: load-called, loaded, unload-called, freed or oom; in monotonic seconds."""
        return [at for at, event in await self._get(service, "/events") if event == word]

    async def residency(self, service: FaultyService) -> str:
        """The residency of a service that gpumand reports."""
        found = (await self.client.status()).consumer(service.name)
        return found.residency if found else ""

    async def reset(self) -> None:
        """End all leases and evict everything."""
        for lease in (await self.client.status()).leases:
            await self.client.release(lease.id)
        for service in SERVICES:
            if await self.residency(service) not in ("unloaded", "failed"):
                await self.client.evict(service.name)

    async def _get(self, service: FaultyService, path: str) -> Any:
        try:
            async with aiohttp.request("GET", self.urls[service.name] + path, timeout=ANSWER_LIMIT) as answer:
                return await answer.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NotSeen(f"{service.name} did not answer {path}: {error or type(error).__name__}") from error


async def wait_until(what: str, condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a condition holds. Raises NotSeen."""
    deadline = asyncio.get_running_loop().time() + DEADLINE_SEC
    while not await condition():
        if asyncio.get_running_loop().time() > deadline:
            raise NotSeen(f"not seen within {DEADLINE_SEC:g} s: {what}")
        await asyncio.sleep(POLL_SEC)


def check(is_true: bool, what: str, found: object) -> None:
    """Raise NotSeen unless a condition holds."""
    if not is_true:
        raise NotSeen(f"not seen: {what} (seen: {found})")
