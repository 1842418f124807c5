"""What the tests of the adapter share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from gpumand.bus.connection import BusConnection, BusError, IncomingCall, Reply
from gpumand.domain.errors import Busy
from gpumand.testing.bus import PrivateBus

NAME = "org.example.Served"
FACE = "org.example.Face"


async def until(condition: Callable[[], bool], within_sec: float = 10.0) -> None:
    """Wait until it holds. Raises TimeoutError."""
    async with asyncio.timeout(within_sec):
        while not condition():  # noqa: ASYNC110 - what is waited for is in other processes, and knows no Event
            await asyncio.sleep(0.005)


@asynccontextmanager
async def peers(bus: PrivateBus, count: int) -> AsyncIterator[list[BusConnection]]:
    """So many connections to the bus, closed in the end."""
    made = [await BusConnection.connect(bus.address) for _ in range(count)]
    try:
        yield made
    finally:
        for connection in made:
            await connection.close()


async def error_of(call: Awaitable[object]) -> BusError:
    """The error that a call ends with."""
    try:
        answer = await call
    except BusError as error:
        return error
    raise AssertionError(f"it was answered: {answer!r}")


class Server:
    """Answers Echo, and Slow when it is let go; Broken breaks; whatever else is Busy. Counts waiting calls."""

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
        raise Busy("somebody\nelse has it")

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
