"""Members that run on a clock that is held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from gpumand.fleet.member import Member, MemberState
from gpumand.fleet.row_json import parse_host
from gpumand.fleet.rows import HostRow
from gpumand.testing.fleet_store import Link, MemoryFleet
from tests.unit.fleet.rows import H1


@asynccontextmanager
async def running(*tasks: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    started = [asyncio.create_task(one) for one in tasks]
    try:
        yield
    finally:
        for task in started:
            task.cancel()
        for task in started:
            with suppress(asyncio.CancelledError):
                await task


def state_of(member: Member) -> MemberState:
    """The state as of now; a type checker takes an attribute for unchanged across an await."""
    return member.state


def published(fleet: MemoryFleet, machine_id: str = H1) -> HostRow | None:
    found = fleet.value(fleet.keys.host(machine_id))
    return parse_host(found) if found else None


class Hanging(Link):
    """A link on which one kind of operation can hang."""

    hangs = ""

    async def request(self, operation: str) -> None:
        await super().request(operation)
        if operation == self.hangs:
            await asyncio.Event().wait()
