"""Two polkit substitutes on the test bus: the independent one of python-dbusmock, and one with scripted replies."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gpumand.bus.connection import BusConnection, IncomingCall, Reply
from gpumand.bus.names import DBUS, DBUS_PATH, POLKIT, POLKIT_AUTHORITY, POLKIT_PATH
from gpumand.bus.variants import unwrap

MOCK = "org.freedesktop.DBus.Mock"
SYSTEM_PYTHON = "/usr/bin/python3"
TEMPLATE = Path("/usr/lib/python3/dist-packages/dbusmock/templates/polkitd.py")
DEADLINE_SEC = 30.0

POLICY = f"""<policy context="default">
    <allow own="{POLKIT}"/>
    <allow send_destination="{POLKIT}"/>
  </policy>"""

needs_dbusmock = pytest.mark.skipif(
    not TEMPLATE.exists() and os.environ.get("GPUMAND_E2E") != "required",
    reason="needs python3-dbusmock, which simulates polkitd",
)


@dataclass
class MockPolkit:
    """The polkitd of python-dbusmock in a separate process; it authorizes no call until the test allows it."""

    process: asyncio.subprocess.Process
    control: BusConnection

    async def control_mock(self, member: str, signature: str = "", *body: object) -> Any:
        """Call a method of the template, such as SetAllowed."""
        answer = await self.control.call(POLKIT, POLKIT_PATH, MOCK, member, signature, body)
        return answer[0] if answer else None

    async def wait_for_check(self) -> None:
        """Wait until a check hangs."""
        await _until(lambda: self.control_mock("HaveHangingCalls"), "a check hangs")

    async def kill(self) -> None:
        """Kill the process."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def mock_polkit(address: str) -> AsyncIterator[MockPolkit]:
    """Run the mock on this bus."""
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "DBUS_SYSTEM_BUS_ADDRESS": address}
    process = await asyncio.create_subprocess_exec(
        *(SYSTEM_PYTHON, "-m", "dbusmock", "--system", "--logfile", os.devnull, "--template", "polkitd"),
        stdin=asyncio.subprocess.DEVNULL,
        env=environment,
    )
    control = await BusConnection.connect(address)
    mock = MockPolkit(process, control)
    try:
        await _until(lambda: _is_there(control), "the mock owns its name")
        yield mock
    finally:
        await mock.kill()
        await control.close()


async def _until(ask: Callable[[], Awaitable[Any]], what: str) -> None:
    """Repeat a call until its result is true; fails after a deadline."""
    deadline = asyncio.get_running_loop().time() + DEADLINE_SEC
    while not await ask():
        assert asyncio.get_running_loop().time() < deadline, f"never: {what}"
        await asyncio.sleep(0.01)


async def _is_there(connection: BusConnection) -> bool:
    (there,) = await connection.call(DBUS, DBUS_PATH, DBUS, "NameHasOwner", "s", (POLKIT,))
    return bool(there)


@dataclass
class ScriptedPolkit:
    """A polkit with replies that the test sets; it records the checks."""

    connection: BusConnection
    answer: tuple[bool, bool, dict[str, str]] = (False, False, {})
    checks: list[tuple[Any, ...]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    answering: asyncio.Event = field(default_factory=asyncio.Event)
    reply: Reply | None = None

    def __post_init__(self) -> None:
        self.answering.set()
        self.connection.serve(self._handle)

    async def _handle(self, call: IncomingCall) -> Reply:
        assert (call.path, call.interface) == (POLKIT_PATH, POLKIT_AUTHORITY)
        if call.member == "CancelCheckAuthorization":
            self.cancelled.append(call.body[0])
            return Reply()
        assert (call.member, call.signature) == ("CheckAuthorization", "(sa{sv})sa{ss}us")
        self.checks.append(tuple(unwrap(list(call.body))))
        await self.answering.wait()
        return self.reply or Reply("(bba{ss})", ([*self.answer],))


@asynccontextmanager
async def scripted_polkit(address: str) -> AsyncIterator[ScriptedPolkit]:
    """Run a scripted polkit on this bus. A second one waits for the name, and gets it when the first one leaves."""
    connection = await BusConnection.connect(address)
    polkit = ScriptedPolkit(connection)
    try:
        (answer,) = await connection.call(DBUS, DBUS_PATH, DBUS, "RequestName", "su", (POLKIT, 0))
        assert answer in (1, 2)
        yield polkit
    finally:
        await connection.close()
