"""Helpers for the tests of BusConnection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

from gpumand.bus.connection import BusConnection, BusError, IncomingCall, Reply
from gpumand.domain.errors import Busy
from gpumand.testing.bus import PrivateBus

NAME = "org.example.Served"
INTERFACE = "org.example.Face"


@asynccontextmanager
async def peers(bus: PrivateBus, count: int) -> AsyncIterator[list[BusConnection]]:
    """Open ``count`` connections to the bus, and close them at the end."""
    made = [await BusConnection.connect(bus.address) for _ in range(count)]
    try:
        yield made
    finally:
        for connection in made:
            await connection.close()


async def error_of(call: Awaitable[object]) -> BusError:
    """Return the error that a call ends with."""
    try:
        answer = await call
    except BusError as error:
        return error
    raise AssertionError(f"the call succeeded: {answer!r}")


class Server:
    """Answers Echo at once, Slow after ``go``, Broken with an exception and other methods with Busy.

    It counts waiting and cancelled calls.
    """

    def __init__(self, connection: BusConnection) -> None:
        self.connection = connection
        self.go = asyncio.Event()
        self.waiting = 0
        self.cancelled = 0
        self.calls: list[IncomingCall] = []
        connection.serve(self.handle)

    def handle(self, call: IncomingCall) -> Reply | Awaitable[Reply]:
        self.calls.append(call)
        if call.member == "Echo":
            return Reply(call.signature, call.body)
        if call.member == "Slow":
            return self.slow()
        if call.member == "Broken":
            raise RuntimeError("/a/secret/path")
        raise Busy("another client\nhas it")

    async def slow(self) -> Reply:
        self.waiting += 1
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1
        return Reply("s", ("done",))
