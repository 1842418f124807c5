"""A fake of org.freedesktop.login1 on a test's own bus, to announce suspends and shutdowns that never come.

logind = FakeLogind(address)
await logind.start()
logind.prepare("Sleep", True)
"""

from __future__ import annotations

import asyncio

from dbus_fast import Variant

from gpumand.bus.connection import BusConnection, IncomingCall, Reply
from gpumand.bus.names import PROPERTIES
from gpumand.domain.errors import FREEDESKTOP, GpumandError
from gpumand.service_manager.logind import LOGIND, LOGIND_MANAGER, LOGIND_PATH


class UnknownProperty(GpumandError):
    """No such thing here."""

    dbus_name = FREEDESKTOP + "UnknownProperty"


class FakeLogind:
    """The manager object, as far as anybody listens to it.

    Attributes:
        preparing: what the properties say, by "Sleep" and "Shutdown".
        asked: how often any was read.
        answering: while it is not set, questions wait.
    """

    def __init__(self, address: str) -> None:
        self.preparing = {"Sleep": False, "Shutdown": False}
        self.asked = 0
        self.answering = asyncio.Event()
        self.answering.set()
        self._address = address
        self._bus: BusConnection | None = None

    async def start(self) -> None:
        """Own the name."""
        self._bus = await BusConnection.connect(self._address)
        self._bus.serve(self._on_call)
        await self._bus.request_name(LOGIND)

    async def stop(self) -> None:
        """Leave the bus, as it does when it dies."""
        if self._bus is not None:
            bus, self._bus = self._bus, None
            await bus.close()

    def prepare(self, what: str, going: bool) -> None:
        """Announce a "Sleep" or "Shutdown", or the end of one."""
        self.preparing[what] = going
        assert self._bus is not None
        self._bus.emit(LOGIND_PATH, LOGIND_MANAGER, f"PrepareFor{what}", "b", (going,))

    async def _on_call(self, call: IncomingCall) -> Reply:
        what = str(call.body[1]).removeprefix("PreparingFor") if len(call.body) == 2 else ""
        if call.interface != PROPERTIES or call.member != "Get" or what not in self.preparing:
            raise UnknownProperty(f"no {call.member} of {call.body} here")
        self.asked += 1
        await self.answering.wait()
        return Reply("v", (Variant("b", self.preparing[what]),))
