"""A fake of org.freedesktop.login1 on a private bus, which announces suspends and shutdowns that do not happen.

logind = FakeLogind(address)
await logind.start()
logind.prepare("Sleep", True)
"""

from __future__ import annotations

import asyncio

from dbus_fast import Variant

from gpumand.bus.connection import BusConnection, IncomingCall, Reply
from gpumand.bus.names import PROPERTIES
from gpumand.domain.errors import FREEDESKTOP_ERROR_PREFIX, GpumandError
from gpumand.service_manager.logind import LOGIND, LOGIND_MANAGER, LOGIND_PATH


class UnknownProperty(GpumandError):
    """The fake does not have this property."""

    dbus_name = FREEDESKTOP_ERROR_PREFIX + "UnknownProperty"


class FakeLogind:
    """The manager object of logind, limited to the parts that gpumand uses.

    Attributes:
        preparing: values of the properties PreparingForSleep and PreparingForShutdown, by "Sleep" and "Shutdown".
        asked: number of times that a property was read.
        answering: while this event is not set, property reads wait.
    """

    def __init__(self, address: str) -> None:
        self.preparing = {"Sleep": False, "Shutdown": False}
        self.asked = 0
        self.answering = asyncio.Event()
        self.answering.set()
        self._address = address
        self._bus: BusConnection | None = None

    async def start(self) -> None:
        """Connect to the bus and own the name."""
        self._bus = await BusConnection.connect(self._address)
        self._bus.serve(self._on_call)
        await self._bus.request_name(LOGIND)

    async def stop(self) -> None:
        """Disconnect from the bus, as logind does when it crashes."""
        if self._bus is not None:
            bus, self._bus = self._bus, None
            await bus.close()

    def prepare(self, what: str, going: bool) -> None:
        """Announce the start or the end of a "Sleep" or "Shutdown"."""
        self.preparing[what] = going
        assert self._bus is not None
        self._bus.emit(LOGIND_PATH, LOGIND_MANAGER, f"PrepareFor{what}", "b", (going,))

    async def _on_call(self, call: IncomingCall) -> Reply:
        what = str(call.body[1]).removeprefix("PreparingFor") if len(call.body) == 2 else ""
        if call.interface != PROPERTIES or call.member != "Get" or what not in self.preparing:
            raise UnknownProperty(f"{call.member} of {call.body} is not faked")
        self.asked += 1
        await self.answering.wait()
        return Reply("v", (Variant("b", self.preparing[what]),))
