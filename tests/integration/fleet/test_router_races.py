"""Many requests through two routers, with hosts that fail and tables that lag: never two loads of one consumer."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import replace

import pytest

from gpumand.domain.errors import Busy, GpumandError, LoadFailed
from gpumand.domain.residency_states import Residency
from gpumand.fleet.calls import AcquireCall
from gpumand.fleet.intents import IntentGuard
from gpumand.fleet.rows import HostRow
from tests.unit.fleet.fleet_rows import COLD, LOADING, RESIDENT, consumer, host
from tests.unit.fleet.scripted_fleet import ScriptedFleet, ScriptedHost, ScriptedLease

NAMES = ("chat", "image")
REQUESTS = 24


class LoadingHost(ScriptedHost):
    """A host that loads as gpumand does: requests that arrive during a load share it. Some loads fail."""

    fleet: LoadingFleet
    dice: random.Random
    guard: IntentGuard

    async def acquire(self, call: AcquireCall) -> ScriptedLease:
        self.acquired.append(call)
        await asyncio.sleep(self.dice.uniform(0, 0.004))
        await self.guard.check(call)
        if self.dice.random() < 0.1:
            raise Busy("leased")
        if self.fleet.states[self.name].get(call.consumer, COLD) is COLD:
            await self.fleet.load(self, call.consumer)
        await self.fleet.loaded(self.name, call.consumer)
        if self.fleet.states[self.name].get(call.consumer) is not RESIDENT:
            raise LoadFailed(f"{call.consumer} did not start on {self.name}")
        return ScriptedLease(self.name)


class LoadingFleet(ScriptedFleet):
    """Three hosts whose loads are watched.

    Attributes:
        states: what each host really does, which its row shows a moment later.
        loads: the host of each load, in order, by consumer.
        twice: loads that began while another host had the same consumer.
    """

    def __init__(self, dice: random.Random) -> None:
        super().__init__(*(host(number, chat=consumer(COLD), image=consumer(COLD)) for number in (1, 2, 3)))
        self.states: dict[str, dict[str, Residency]] = {name: {} for name in self.rows}
        self.loads: list[tuple[str, str]] = []
        self.twice: list[str] = []
        self._dice = dice
        for name in self.rows:
            self.hosts[name] = LoadingHost(name)
            self.hosts[name].fleet, self.hosts[name].dice = self, dice  # type: ignore[attr-defined]

    async def start(self) -> None:
        await super().start()
        for name, one in self.hosts.items():
            table = (await self.router()).table
            row = lambda name=name: self.real_row(name)  # noqa: E731
            one.guard = IntentGuard(table, self.rows[name].machine_id, row)  # type: ignore[attr-defined]

    def real_row(self, name: str) -> HostRow:
        """The row as the host itself knows it."""
        row, states = self.rows[name], self.states[name]
        found = {one: replace(known, residency=states.get(one, COLD)) for one, known in row.consumers.items()}
        return replace(row, consumers=found)

    async def loaded(self, host: str, name: str) -> None:
        """Wait until no load is going on."""
        for _ in range(10000):
            if self.states[host].get(name) is not LOADING:
                return
            await asyncio.sleep(0.001)

    async def load(self, at: ScriptedHost, name: str) -> None:
        others = [
            one for one, states in self.states.items() if one != at.name and states.get(name) in (LOADING, RESIDENT)
        ]
        self.twice += [f"{name} on {at.name} and {one}" for one in others]
        self.loads.append((name, at.name))
        self.states[at.name][name] = LOADING
        await asyncio.sleep(self._dice.uniform(0, 0.01))
        await self.publish(at.name, **{name: LOADING})
        await asyncio.sleep(self._dice.uniform(0, 0.01))
        state = COLD if self._dice.random() < 0.2 else RESIDENT
        self.states[at.name][name] = state
        await asyncio.sleep(self._dice.uniform(0, 0.005))
        await self.publish(at.name, **{name: state})


@pytest.mark.parametrize("seed", range(25))
async def test_requests_of_two_routers_never_load_a_consumer_on_two_hosts(seed: int) -> None:
    dice = random.Random(seed)
    fleet = LoadingFleet(dice)
    await fleet.start()
    routers = [await fleet.router(), await fleet.router()]

    async def request(number: int) -> bool:
        await asyncio.sleep(dice.uniform(0, 0.05))
        with suppress(GpumandError):
            await routers[number % 2].acquire(AcquireCall(dice.choice(NAMES), 5.0))
            return True
        return False

    served = await asyncio.gather(*(request(number) for number in range(REQUESTS)))
    await fleet.close()

    assert fleet.twice == [], fleet.loads
    assert any(served)
