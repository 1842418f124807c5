"""A bus with the fake systemd, which runs as a separate process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from dbus_fast import Variant

from gpumand.bus.connection import BusConnection, BusError
from gpumand.bus.names import SYSTEMD, SYSTEMD_PATH
from gpumand.ports import UnitFailed
from gpumand.testing.bus import PrivateBus
from gpumand.testing.systemd1 import TESTING

SIGNATURES: dict[type, str] = {bool: "b", float: "d", int: "i", str: "s", list: "as"}


class FakeHost:
    """The process of the fake systemd, and methods to change its behaviour."""

    def __init__(self, bus: PrivateBus, control: BusConnection, folder: Path) -> None:
        self.bus = bus
        self.control = control
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    async def boot(self, units: dict[str, dict[str, Any]]) -> None:
        """Start systemd with these units."""
        file = self._folder / "units.json"
        file.write_text(json.dumps(units))
        command = ["-m", "gpumand.testing.systemd1", "--bus-address", self.bus.address, "--units", str(file)]
        self._process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
        assert self._process.stdout is not None
        async with asyncio.timeout(20):
            assert await self._process.stdout.readline() == b"READY\n"

    async def halt(self) -> None:
        """Terminate systemd and all its units."""
        if self._process is not None:
            self._process.terminate()
            async with asyncio.timeout(20):
                await self._process.communicate()
            assert self._process.returncode == 0
            self._process = None

    def pause(self) -> None:
        """Stop the process of systemd, so that it answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the process of systemd."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def configure(self, unit: str, **changes: Any) -> None:
        """Change the behaviour of a unit."""
        variants = {key: Variant(SIGNATURES[type(value)], value) for key, value in changes.items()}
        await self._testing("Configure", "sa{sv}", (unit, variants))

    async def reexec(self) -> None:
        await self._testing("Reexec")

    async def reload(self) -> None:
        await self._testing("Reload")

    async def counts(self) -> dict[str, int]:
        (counts,) = await self._testing("Counts")
        return dict(counts)

    async def subscribed(self) -> bool:
        """Whether a client is subscribed; False while systemd is not on the bus."""
        try:
            return (await self.counts())["subscribers"] == 1
        except BusError:
            return False

    async def call_manager(self, member: str, signature: str, *body: Any) -> tuple[Any, ...]:
        """Call systemd's manager as another program would."""
        manager = "org.freedesktop.systemd1.Manager"
        return await self.control.call(SYSTEMD, SYSTEMD_PATH, manager, member, signature, body)

    async def unit_property(self, unit_path: str, interface: str, name: str) -> Any:
        body = (f"org.freedesktop.systemd1.{interface}", name)
        return (await self.control.call(SYSTEMD, unit_path, "org.freedesktop.DBus.Properties", "Get", "ss", body))[0]

    async def main_pid(self, unit: str) -> int:
        (path,) = await self.call_manager("LoadUnit", "s", unit)
        return int(await self.unit_property(path, "Service", "MainPID"))

    async def _testing(self, member: str, signature: str = "", body: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        return await self.control.call(SYSTEMD, SYSTEMD_PATH, TESTING, member, signature, body)


async def until(condition: Callable[[], bool | Awaitable[bool]], within_sec: float = 30.0) -> None:
    """Wait until the condition holds. Raises TimeoutError."""
    async with asyncio.timeout(within_sec):
        while True:
            holds = condition()
            if holds is True or (holds is not False and await holds):
                return
            await asyncio.sleep(0.01)


async def failure_of(work: Awaitable[object]) -> UnitFailed:
    """Return the failure that the work ends with."""
    try:
        await work
    except UnitFailed as failure:
        return failure
    raise AssertionError("no UnitFailed was raised")
