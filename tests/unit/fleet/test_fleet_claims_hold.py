"""Whatever is lost, late or suspended: a unique consumer has one host, and an intent has one router.

Hypothesis chooses what two hosts do, and the seed of what happens to their requests on the way.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gpumand.fleet.member import Member
from gpumand.fleet.rows import HostRow
from gpumand.fleet.store import Claim, Membership, StoreError, UnknownOutcome
from gpumand.fleet.unique import UniqueConsumers
from gpumand.testing.clock import FakeClock
from gpumand.testing.fleet_store import Link, MemoryFleet, MemoryStore
from tests.unit.fleet.rows import H1, H2, row

CONSUMERS = ("llm", "tts")
TTL_SEC = 15.0


class HostClock:
    """The clock of one host: a little fast or slow, with a wall clock of its own, and suspended when the test says."""

    def __init__(self, base: FakeClock, rate: float) -> None:
        self._base, self._rate = base, rate
        self.wall_offset_usec = 0
        self._awake = asyncio.Event()
        self._awake.set()

    def boottime(self) -> float:
        return self._base.boottime() * self._rate

    def realtime_usec(self) -> int:
        return self._base.realtime_usec() + self.wall_offset_usec

    async def sleep(self, seconds: float) -> None:
        await self._base.sleep(seconds / self._rate)
        await self._awake.wait()

    async def awake(self) -> None:
        await self._awake.wait()

    def suspend(self) -> None:
        self._awake.clear()

    def resume(self) -> None:
        self._awake.set()


class UnreliableStore(MemoryStore):
    """Requests and answers get lost or late, and some requests are carried out after the caller has given up."""

    def __init__(self, fleet: MemoryFleet, clock: HostClock, chance: random.Random, trouble: float) -> None:
        super().__init__(fleet, Link(), clock)
        self._host, self._chance, self._trouble = clock, chance, trouble
        self.late: set[asyncio.Task[Any]] = set()

    async def _unreliable(self, work: Callable[[], Awaitable[Any]], *, may_be_late: bool) -> Any:
        await self._pause()
        is_fine = self._chance.random() >= self._trouble
        fate = "fine" if is_fine else self._chance.choice(("request lost", "answer lost", "late"))
        if fate == "late" and may_be_late:
            self._later(work)
            raise UnknownOutcome("the answer was lost, and the request is on its way")
        if fate == "request lost":
            raise UnknownOutcome("the request was lost")
        result = await work()
        await self._pause()
        if fate == "answer lost":
            raise UnknownOutcome("the answer was lost")
        return result

    async def _pause(self) -> None:
        is_quick = self._chance.random() >= self._trouble
        await self.fleet.clock.sleep(0.01 if is_quick else self._chance.choice((0.5, 2.0, 4.0)))
        await self._host.awake()

    def _later(self, work: Callable[[], Awaitable[Any]]) -> None:
        async def run() -> None:
            await self.fleet.clock.sleep(self._chance.choice((0.5, 3.0, 7.0)))
            with suppress(StoreError):
                await work()

        task = asyncio.create_task(run())
        self.late.add(task)
        task.add_done_callback(self.late.discard)

    async def join(self, row: HostRow) -> Membership:
        sent = self._clock.boottime()
        found = await self._unreliable(lambda: super(UnreliableStore, self).join(row), may_be_late=False)
        return Membership(found.epoch, found.ttl_sec, sent, found.revision)

    async def renew(self) -> None:
        await self._unreliable(super().renew, may_be_late=True)

    async def claim(self, key: str, value: str, ttl_sec: float | None = None, *, former: str = "") -> Claim:
        inner = super().claim
        found: Claim = await self._unreliable(lambda: inner(key, value, ttl_sec, former=former), may_be_late=True)
        return found

    async def release(self, key: str, value: str) -> None:
        inner = super().release
        await self._unreliable(lambda: inner(key, value), may_be_late=True)


@dataclass
class Host:
    """A host with an agent, which holds unique consumers, and a router, which has intents.

    Attributes:
        trouble: share of requests that something happens to.
        wanted: consumers that the host claims until it holds them, again and again.
        intended: consumers that the router has an intent for, one after the other.
        believed: until when the router counts on its intent, by consumer, on the clock of the store.
    """

    fleet: MemoryFleet
    clock: HostClock
    machine_id: str
    seed: int
    trouble: float
    wanted: set[str] = field(default_factory=set)
    intended: set[str] = field(default_factory=set)
    believed: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.starts = 0
        self.late: set[asyncio.Task[Any]] = set()
        self.ended: list[asyncio.Task[None]] = []
        self.start()

    def start(self) -> None:
        """Start agent and router, which know nothing of earlier ones."""
        self.starts += 1
        self.store = UnreliableStore(self.fleet, self.clock, random.Random(self.seed + self.starts), self.trouble)
        self.store.late = self.late  # a request that is on its way arrives although its process is gone
        self.member = Member(self.store, self.clock, row(self.machine_id))
        self.unique = UniqueConsumers(
            self.store, self.fleet.keys, self.machine_id, self.member.fence, self.clock, self._fenced
        )
        works = [self.member.run(), self.unique.run()]
        works += [self._insist(one) for one in CONSUMERS] + [self._intend(one) for one in CONSUMERS]
        self.tasks = [asyncio.create_task(one) for one in works]

    async def _fenced(self, lost: frozenset[str]) -> None:
        assert lost

    async def _insist(self, consumer: str) -> None:
        """Claim a consumer while it is wanted, and release it when it is not."""
        while True:
            await self.clock.sleep(0.3)
            with suppress(StoreError):
                if consumer in self.wanted:
                    await self.unique.claim(consumer)
                elif self.unique.holds(consumer):
                    await self.unique.release(consumer)

    async def _intend(self, consumer: str) -> None:
        """Claim an intent, count on it for a while, and release it, again and again."""
        for turn in count():
            await self.clock.sleep(0.3)
            key, value = self.fleet.keys.intent(consumer), f"{self.machine_id}-{turn}"
            with suppress(StoreError):
                if consumer in self.intended and await self._has_intent(consumer, key, value):
                    await self.clock.sleep(3)
                    self.believed.pop(consumer, None)
                    await self.store.release(key, value)

    async def _has_intent(self, consumer: str, key: str, value: str) -> bool:
        sent = self.fleet.clock.boottime()
        claim = await self.store.claim(key, value, TTL_SEC)
        if claim.ok:
            self.believed[consumer] = sent + TTL_SEC
        return claim.ok

    def kill(self) -> None:
        """Kill agent and router, at whatever point they are: their lease and their claims stay in the store."""
        for task in self.tasks:
            task.cancel()
        self.ended += self.tasks
        self.believed.clear()  # a router that is gone sends no request
        is_cut = self.store.link.is_cut
        self.start()
        if is_cut:
            self.store.cut_off()

    async def stop(self) -> None:
        for task in (*self.tasks, *self.late):
            task.cancel()
        await asyncio.gather(*self.tasks, *self.ended, *self.late, return_exceptions=True)


@dataclass
class Step:
    """What happens next: an action of a host on a consumer, and the time after it."""

    action: str
    host: int
    consumer: str
    seconds: float


ACTIONS = ("want", "want", "leave", "intend", "cut", "heal", "suspend", "resume", "kill", "set clock", "wait")
steps = st.builds(
    Step,
    st.sampled_from(ACTIONS),
    st.integers(0, 1),
    st.sampled_from(CONSUMERS),
    st.sampled_from((0.1, 1.0, 4.0, 12.0)),
)


def act(step: Step, host: Host) -> None:
    if step.action == "want":
        host.wanted.add(step.consumer)
    elif step.action == "leave":
        host.wanted.discard(step.consumer)
        host.intended.discard(step.consumer)
    elif step.action == "intend":
        host.intended.add(step.consumer)
    elif step.action == "cut":
        host.store.cut_off()
    elif step.action == "heal":
        host.store.heal()
    elif step.action == "suspend":
        host.clock.suspend()
    elif step.action == "resume":
        host.clock.resume()
    elif step.action == "kill":
        host.kill()
    elif step.action == "set clock":
        host.clock.wall_offset_usec += int(step.seconds * 3.6e9) * (1 if step.host else -1)


def moments(seconds: float) -> Iterator[float]:
    """Split a time into the moments at which the rules are checked."""
    while seconds > 0:
        yield min(seconds, 0.25)
        seconds -= 0.25


async def run(
    script: list[Step], seeds: tuple[int, int], rates: tuple[float, float] = (1.0, 1.0), trouble: float = 0.1
) -> set[str]:
    """Run a script, check the rules at every moment, and return what was held at any time."""
    clock = FakeClock()
    fleet = MemoryFleet(clock)
    hosts = [Host(fleet, HostClock(clock, rates[index]), (H1, H2)[index], seeds[index], trouble) for index in (0, 1)]
    held: set[str] = set()
    try:
        for step in script:
            act(step, hosts[step.host])
            for moment in moments(step.seconds):
                await clock.advance(moment)
                held |= check(fleet, hosts)
    finally:
        for host in hosts:
            host.clock.resume()
            await host.stop()
        fleet.close()
    return held


def check(fleet: MemoryFleet, hosts: list[Host]) -> set[str]:
    """At most one host holds each unique consumer, and at most one router counts on an intent for it."""
    now, held = fleet.clock.boottime(), set()
    for consumer in CONSUMERS:
        holders = [one.machine_id[0] for one in hosts if one.unique.holds(consumer)]
        routers = [one.machine_id[0] for one in hosts if one.believed.get(consumer, 0.0) > now]
        assert len(holders) <= 1, f"{consumer} has two hosts"
        assert len(routers) <= 1, f"{consumer} has two intents"
        held |= {f"{consumer} on {one}" for one in holders} | {f"intent of {one}" for one in routers}
    return held


SEED = st.integers(0, 2**32 - 1)
RATE = st.sampled_from((0.98, 1.0, 1.02))
TROUBLE = st.sampled_from((0.0, 0.1, 0.3))


def script(*rows: tuple[str, int, float]) -> list[Step]:
    return [Step(action, host, "llm", seconds) for action, host, seconds in rows]


BOTH_WANT = script(("want", 0, 2.0), ("want", 1, 2.0))
CUTS = BOTH_WANT + script(*[(action, host, 14.0) for host in (0, 1, 0, 1) for action in ("cut", "heal")])
SUSPENDS = BOTH_WANT + script(*[(action, host, 14.0) for host in (0, 1, 0, 1) for action in ("suspend", "resume")])
HANDED_OVER = BOTH_WANT + script(*[(action, host, 4.0) for host in (0, 1) * 4 for action in ("leave", "want")])
FLICKER = (("leave", 1, 6.0), ("want", 0, 6.0), ("leave", 0, 0.7), ("want", 0, 0.7), ("want", 1, 8.0))
FLICKERS = script(*FLICKER * 4)
KILLED_AND_BACK = script(("want", 0, 3.0), ("want", 1, 3.0), *[("kill", 0, 3.0)] * 6)
KILLED_AND_LEFT = BOTH_WANT + script(
    *[(action, host, 8.0) for host in (0, 1) * 3 for action in ("kill", "leave", "want")]
)
KILLED_WITH_INTENT = script(
    *[step for host in (0, 1) * 3 for step in (("intend", host, 1.4), ("kill", host, 0.1), ("leave", host, 25.0))]
)
CLOCKS_SET = BOTH_WANT + script(
    *[(action, host, 4.0) for host in (0, 1) * 4 for action in ("set clock", "leave", "want")]
)
INTENTS = script(("intend", 0, 0.1), ("intend", 1, 60.0), ("suspend", 0, 20.0), ("resume", 0, 20.0))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, min_size=5, max_size=25), st.tuples(SEED, SEED), st.tuples(RATE, RATE), TROUBLE)
@example(CUTS, (1, 2), (1.0, 1.0), 0.0)
@example(CUTS, (3, 4), (0.98, 1.02), 0.1)
@example(SUSPENDS, (5, 6), (1.02, 0.98), 0.1)
@example(HANDED_OVER, (7, 8), (1.0, 1.0), 0.3)
@example(INTENTS, (9, 10), (1.0, 1.0), 0.3)
@example(KILLED_AND_BACK, (11, 12), (1.0, 1.0), 0.3)
@example(KILLED_AND_LEFT, (13, 14), (0.98, 1.02), 0.3)
@example(KILLED_WITH_INTENT, (15, 16), (1.02, 0.98), 0.3)
@example(CLOCKS_SET, (17, 18), (1.0, 1.0), 0.3)
def test_two_hosts_never_hold_a_unique_consumer_and_two_routers_never_an_intent(
    script: list[Step], seeds: tuple[int, int], rates: tuple[float, float], trouble: float
) -> None:
    asyncio.run(run(script, seeds, rates, trouble))


@pytest.mark.parametrize("seed", range(12))
def test_requests_that_are_carried_out_late_do_not_undo_later_claims(seed: int) -> None:
    asyncio.run(run(FLICKERS, (seed, seed + 100), trouble=0.5))
    asyncio.run(run(INTENTS, (seed, seed + 100), trouble=0.5))


@pytest.mark.parametrize(
    "scenario",
    [CUTS, SUSPENDS, HANDED_OVER, KILLED_AND_LEFT, CLOCKS_SET],
    ids=["cuts", "suspends", "handed over", "killed", "clocks set"],
)
def test_consumer_moves_between_hosts_in_these_scenarios(scenario: list[Step]) -> None:
    # A rule that holds because nothing is ever held would prove nothing.
    assert asyncio.run(run(scenario, (1, 2))) == {"llm on 1", "llm on 2"}


def test_agent_that_is_started_again_while_its_lease_lives_has_its_consumer_back() -> None:
    assert asyncio.run(run(KILLED_AND_BACK, (1, 2), trouble=0.0)) == {"llm on 1"}


@pytest.mark.parametrize("scenario", [INTENTS, KILLED_WITH_INTENT], ids=["slept", "killed before the load"])
def test_intents_move_between_routers_in_these_scenarios(scenario: list[Step]) -> None:
    assert asyncio.run(run(scenario, (1, 2))) == {"intent of 1", "intent of 2"}
