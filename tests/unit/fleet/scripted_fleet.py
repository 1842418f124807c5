"""Hosts with scripted answers around a real router, table and store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from gpumand.domain.errors import GpumandError
from gpumand.domain.residency_states import Residency
from gpumand.fleet.calls import AcquireCall, DrainCall, LoadCall, PlanCall
from gpumand.fleet.clock import BoottimeClock
from gpumand.fleet.errors import HostLost
from gpumand.fleet.intents import Intents
from gpumand.fleet.router import Router
from gpumand.fleet.rows import HostRow
from gpumand.fleet.table import HostTable
from gpumand.testing.fleet_store import MemoryFleet, MemoryStore

Answer = GpumandError | None
"""A refusal, or None for a grant."""


class ScriptedLease:
    """A lease whose end a test sets."""

    def __init__(self, host: str) -> None:
        self.grant = {"lease": f"lease-on-{host}", "host": host}
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.released = False

    async def wait_ended(self) -> str:
        return await asyncio.shield(self.ended)

    async def release(self) -> None:
        self.released = True


@dataclass
class ScriptedHost:
    """A host that answers as a test says, and notes what it was asked.

    Attributes:
        answers: the answers to acquires, in order; when they are used up it grants.
        quote: the answer to a plan.
        before: awaited before each answer to an acquire.
        load_error: the answer to loads; None = they succeed.
    """

    name: str
    answers: list[Answer] = field(default_factory=list)
    quote: dict[str, Any] | GpumandError = field(default_factory=lambda: {"verdict": "grant", "expected_usec": 0})
    before: Callable[[], Awaitable[None]] | None = None
    load_error: Answer = None
    acquired: list[AcquireCall] = field(default_factory=list)
    planned: list[PlanCall] = field(default_factory=list)
    loaded: list[LoadCall] = field(default_factory=list)
    leases: list[ScriptedLease] = field(default_factory=list)

    async def acquire(self, call: AcquireCall) -> ScriptedLease:
        self.acquired.append(call)
        if self.before is not None:
            await self.before()
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer
        self.leases.append(ScriptedLease(self.name))
        return self.leases[-1]

    async def plan(self, call: PlanCall) -> dict[str, Any]:
        self.planned.append(call)
        if isinstance(self.quote, GpumandError):
            raise self.quote
        return self.quote

    async def load(self, call: LoadCall) -> dict[str, Any]:
        self.loaded.append(call)
        if self.load_error is not None:
            raise self.load_error
        return {"changed": True}

    async def drain(self, call: DrainCall) -> dict[str, Any]:
        return {"drain": call.drain}


class ScriptedFleet:
    """Hosts, the store that they publish their rows in, and routers."""

    def __init__(self, *rows: HostRow) -> None:
        self.memory = MemoryFleet(BoottimeClock())
        self.keys = self.memory.keys
        self.rows = {row.name: row for row in rows}
        self.hosts = {row.name: ScriptedHost(row.name) for row in rows}
        self.claims = 0
        self._stores: dict[str, MemoryStore] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._intents: list[Intents] = []

    async def start(self) -> None:
        for name, row in self.rows.items():
            self._stores[name] = self.memory.store()
            membership = await self._stores[name].join(row)
            self.rows[name] = replace(row, epoch=membership.epoch)

    async def publish(self, name: str, **consumers: Residency) -> None:
        """Publish new residencies of a host."""
        row = self.rows[name]
        found = {one: replace(row.consumers[one], residency=state) for one, state in consumers.items()}
        self.rows[name] = replace(row, seq=row.seq + 1, consumers={**row.consumers, **found})
        await self._stores[name].update(self.rows[name])

    async def router(self, **more: Any) -> FleetRouter:
        """A router whose table has been read."""
        store = self.memory.store()
        table = HostTable(self.keys, asyncio.get_running_loop().time)
        intents = Intents(store, self.keys, table, BoottimeClock(), f"router-{len(self._intents)}", **more)
        self._intents.append(intents)
        made = FleetRouter(table, intents, lambda row: self.hosts[row.name])
        made.store = store
        self._tasks.append(asyncio.create_task(_feed(store, self.keys.root, table)))
        while table.interruption:
            await table.wait_changed(5.0)
        return made

    async def close(self) -> None:
        for intents in self._intents:
            await intents.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.memory.close()


class FleetRouter(Router):
    """A router with its table and store, for tests."""

    store: MemoryStore

    @property
    def table(self) -> HostTable:
        return self._table


async def _feed(store: MemoryStore, prefix: str, table: HostTable) -> None:
    async for change in store.watch(prefix):
        table.apply(change)


def lost(name: str) -> HostLost:
    return HostLost(f"{name} cannot be reached")
