"""A host joins, renews, publishes on change, and is fenced in time, on a clock that is held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from gpumand.fleet.fence import Fence
from gpumand.fleet.member import Member, MemberState
from gpumand.fleet.publisher import interval_sec
from gpumand.fleet.row_json import MAX_ROW_BYTES, parse_host
from gpumand.fleet.rows import HostRow
from gpumand.fleet.store import MembershipLost, StoreUnavailable
from gpumand.fleet.unique import UniqueConsumers
from gpumand.testing.clock import FakeClock
from gpumand.testing.fleet_store import Link, MemoryFleet, MemoryStore
from tests.unit.fleet.rows import H1, H2, RESIDENT, row


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def fleet(clock: FakeClock) -> Iterator[MemoryFleet]:
    found = MemoryFleet(clock)
    yield found
    found.close()


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


# -- renewals ----------------------------------------------------------------------------------------------------------


async def test_host_stays_while_it_renews(clock: FakeClock, fleet: MemoryFleet) -> None:
    member = Member(fleet.store(), clock, row())
    async with running(member.run()):
        await clock.advance(100)
        assert state_of(member) is MemberState.JOINED
        assert member.fence.is_standing
        assert published(fleet) is not None


async def test_host_with_a_short_lease_renews_more_often(clock: FakeClock) -> None:
    fleet = MemoryFleet(clock, ttl_sec=3.0)
    member = Member(fleet.store(), clock, row())
    async with running(member.run()):
        await clock.advance(0.5)
        for _ in range(20):
            await clock.advance(0.5)
            assert member.fence.is_standing
    fleet.close()


async def test_every_renewal_publishes_the_row_again(clock: FakeClock, fleet: MemoryFleet) -> None:
    member = Member(fleet.store(), clock, row())
    async with running(member.run()):
        await clock.advance(1)
        first = published(fleet)
        await clock.advance(3)
        assert first is not None
        assert published(fleet) == replace(first, seq=first.seq + 1)


async def test_host_joins_again_after_its_lease_ended(clock: FakeClock, fleet: MemoryFleet) -> None:
    store = fleet.store()
    member = Member(store, clock, row())
    async with running(member.run()):
        await clock.advance(1)
        generation = member.fence.generation
        store.cut_off()
        await clock.advance(12)
        assert state_of(member) is MemberState.UNAVAILABLE
        assert published(fleet) is None
        store.heal()
        await clock.advance(2)
        assert state_of(member) is MemberState.JOINED
        assert member.fence.generation == generation + 1
        assert published(fleet) is not None


async def test_refused_host_says_so_and_joins_when_it_may(clock: FakeClock, fleet: MemoryFleet) -> None:
    link = Link()
    link.denied = True
    member = Member(fleet.store(link), clock, row())
    async with running(member.run()):
        await clock.advance(1)
        assert state_of(member) is MemberState.DENIED
        assert "permission denied" in member.reason
        link.denied = False
        await clock.advance(16)
        assert state_of(member) is MemberState.JOINED


async def test_write_that_hangs_does_not_delay_renewals(clock: FakeClock, fleet: MemoryFleet) -> None:
    link = Hanging()
    member = Member(fleet.store(link), clock, row())
    async with running(member.run()):
        await clock.advance(1)
        link.hangs = "update"
        member.publish(row(llm=RESIDENT))
        await clock.advance(60)
        assert member.fence.is_standing
        assert published(fleet) is not None


# -- rows --------------------------------------------------------------------------------------------------------------


async def test_bursts_are_written_five_times_a_second_and_the_newest_row_arrives(
    clock: FakeClock, fleet: MemoryFleet
) -> None:
    store = fleet.store()
    member = Member(store, clock, row())
    async with running(member.run()):
        await clock.advance(0.5)
        store.link.calls.clear()
        for index in range(100):
            member.publish(replace(row(), queue=index + 1))
            await clock.advance(0.01)
        assert store.link.calls.count("update") <= 6
        await clock.advance(0.2)
        last = published(fleet)
        assert last is not None
        assert last.queue == 100


async def test_unchanged_row_is_not_written(clock: FakeClock, fleet: MemoryFleet) -> None:
    store = fleet.store()
    member = Member(store, clock, row())
    async with running(member.run()):
        await clock.advance(0.5)
        store.link.calls.clear()
        member.publish(row(epoch=77, seq=99))
        await clock.advance(1)
        assert "update" not in store.link.calls


async def test_row_whose_write_failed_is_written_later(clock: FakeClock, fleet: MemoryFleet) -> None:
    store = fleet.store()
    member = Member(store, clock, row())
    async with running(member.run()):
        await clock.advance(0.5)
        store.cut_off()
        member.publish(replace(row(), queue=5))
        await clock.advance(1)
        store.heal()
        await clock.advance(1.2)
        last = published(fleet)
        assert last is not None
        assert last.queue == 5


def test_large_row_is_written_less_often() -> None:
    large = replace(row(), consumers={f"consumer-{index}": RESIDENT for index in range(200)})
    assert interval_sec(row()) == 0.2
    assert 1 < interval_sec(large) < 0.2 * MAX_ROW_BYTES / 4096


# -- the fence ---------------------------------------------------------------------------------------------------------


async def test_fence_falls_before_the_keys_of_a_host_that_was_cut_off_are_gone(
    clock: FakeClock, fleet: MemoryFleet
) -> None:
    store = fleet.store()
    member = Member(store, clock, row())
    async with running(member.run()):
        await clock.advance(7.3)
        store.cut_off()
        while member.fence.is_standing:
            assert published(fleet) is not None
            await clock.advance(0.1)
        assert published(fleet) is not None
        await clock.advance(1.1)
        assert published(fleet) is None


async def test_fence_falls_in_time_although_a_renewal_hangs(clock: FakeClock, fleet: MemoryFleet) -> None:
    link = Hanging()
    member = Member(fleet.store(link), clock, row())
    async with running(member.run()):
        await clock.advance(1)
        link.hangs = "renew"
        await clock.advance(7.9)
        assert member.fence.is_standing
        await clock.advance(0.2)
        assert not member.fence.is_standing


class LateAnswers(Link):
    """A link whose answers to renewals take some time."""

    def __init__(self, clock: FakeClock, seconds: float) -> None:
        super().__init__()
        self._clock = clock
        self._seconds = seconds

    async def answer(self, operation: str) -> None:
        if operation == "renew":
            await self._clock.sleep(self._seconds)
        await super().answer(operation)


async def test_fence_counts_from_the_moment_at_which_the_renewal_was_sent(clock: FakeClock, fleet: MemoryFleet) -> None:
    link = LateAnswers(clock, 2.0)
    member = Member(fleet.store(link), clock, row())
    async with running(member.run()):
        await clock.advance(5.05)  # sent after 3 s, answered after 5 s
        assert member.fence.remaining_sec == pytest.approx(3 + 9 - 5.05)


async def test_host_that_resumes_from_a_suspend_is_fenced_before_any_task_runs(
    clock: FakeClock, fleet: MemoryFleet
) -> None:
    member = Member(fleet.store(), clock, row())
    async with running(member.run()):
        await clock.advance(1)
        assert member.fence.is_standing
        clock.suspend(10)
        assert not member.fence.is_standing


async def test_fence_that_fell_is_noticed_at_once_after_a_resume(clock: FakeClock) -> None:
    fence = Fence(clock)
    fence.joined(clock.boottime(), 10)
    waiting = asyncio.create_task(fence.fallen(fence.generation))
    await clock.advance(1)
    clock.suspend(60)
    await clock.advance(0.2)
    assert waiting.done()


def test_older_renewal_does_not_shorten_the_fence(clock: FakeClock) -> None:
    fence = Fence(clock)
    fence.joined(clock.boottime(), 10)
    fence.renewed(clock.boottime() - 5, 10)
    assert fence.remaining_sec == pytest.approx(9)


# -- unique consumers --------------------------------------------------------------------------------------------------


class Host:
    """A host with a membership and unique consumers."""

    def __init__(self, fleet: MemoryFleet, clock: FakeClock, machine_id: str) -> None:
        self.store: MemoryStore = fleet.store()
        self.member = Member(self.store, clock, row(machine_id))
        self.fenced: list[str] = []
        self.unique = UniqueConsumers(self.store, fleet.keys, machine_id, self.member.fence, clock, self._fenced)

    async def _fenced(self, lost: frozenset[str]) -> None:
        self.fenced += sorted(lost)


@pytest.fixture
async def hosts(clock: FakeClock, fleet: MemoryFleet) -> AsyncIterator[tuple[Host, Host]]:
    first, second = Host(fleet, clock, H1), Host(fleet, clock, H2)
    async with running(first.member.run(), second.member.run(), first.unique.run(), second.unique.run()):
        await clock.advance(0.5)
        yield first, second


async def test_unique_consumer_is_held_by_one_host_until_it_is_released(hosts: tuple[Host, Host]) -> None:
    first, second = hosts
    assert await first.unique.claim("llm") == ""
    assert await second.unique.claim("llm") == H1
    assert first.unique.holds("llm")
    assert not second.unique.holds("llm")
    await first.unique.release("llm")
    assert await second.unique.claim("llm") == ""


async def test_host_that_was_cut_off_gives_a_unique_consumer_up_before_another_can_have_it(
    clock: FakeClock, hosts: tuple[Host, Host]
) -> None:
    first, second = hosts
    await first.unique.claim("llm")
    first.store.cut_off()
    while await second.unique.claim("llm") != "":
        await clock.advance(0.25)
    assert first.fenced == ["llm"]
    assert not first.unique.holds("llm")


@pytest.mark.parametrize("phase_sec", [0.0, 0.03, 0.11, 0.17])
async def test_unique_consumer_ends_when_the_fence_falls_and_not_at_the_next_look(
    clock: FakeClock, fleet: MemoryFleet, phase_sec: float
) -> None:
    host = Host(fleet, clock, H1)
    async with running(host.member.run()):
        await clock.advance(0.3 + phase_sec)
        async with running(host.unique.run()):
            await host.unique.claim("llm")
            host.store.cut_off()
            await clock.advance(host.member.fence.remaining_sec - 0.001)
            assert host.fenced == []
            await clock.advance(0.002)
            assert host.fenced == ["llm"]


async def test_claim_of_an_earlier_lease_does_not_count_after_the_host_joined_again(
    clock: FakeClock, hosts: tuple[Host, Host]
) -> None:
    first, _ = hosts
    await first.unique.claim("llm")
    first.store.fleet.revoke(first.store._lease)
    await clock.advance(4)  # the renewal finds the lease gone, and the host joins again
    assert first.member.fence.is_standing
    assert not first.unique.holds("llm")
    assert first.fenced == ["llm"]


async def test_fenced_host_claims_nothing(clock: FakeClock, hosts: tuple[Host, Host]) -> None:
    first, _ = hosts
    first.store.cut_off()
    await clock.advance(11)
    with pytest.raises(MembershipLost):
        await first.unique.claim("llm")


async def test_claim_ends_with_its_lease_even_if_the_fence_never_fell(clock: FakeClock, fleet: MemoryFleet) -> None:
    fence, store = Fence(clock), fleet.store()
    await store.join(row())
    fence.joined(clock.boottime(), 10)

    async def fenced(_: frozenset[str]) -> None:
        """No task runs here that would call it."""

    unique = UniqueConsumers(store, fleet.keys, H1, fence, clock, fenced)
    await unique.claim("llm")
    assert unique.holds("llm")
    fence.joined(clock.boottime(), 10)
    assert not unique.holds("llm")


class Replacing(Link):
    """A link during whose claim the lease of the host is replaced."""

    def __init__(self, fence: Fence) -> None:
        super().__init__()
        self._fence = fence

    async def answer(self, operation: str) -> None:
        await super().answer(operation)
        if operation == "claim":
            self._fence.joined(self._fence._clock.boottime(), 10)


async def test_claim_during_which_the_lease_was_replaced_does_not_count(clock: FakeClock, fleet: MemoryFleet) -> None:
    fence = Fence(clock)
    store = fleet.store(Replacing(fence))
    await store.join(row())
    fence.joined(clock.boottime(), 10)

    async def fenced(_: frozenset[str]) -> None:
        raise AssertionError("nothing was held")

    unique = UniqueConsumers(store, fleet.keys, H1, fence, clock, fenced)
    with pytest.raises(StoreUnavailable):
        await unique.claim("llm")
    assert not unique.holds("llm")


async def test_fence_does_not_stand_while_the_host_joins_again(clock: FakeClock, fleet: MemoryFleet) -> None:
    store = fleet.store()
    member = Member(store, clock, row())
    await member._join()
    assert member.fence.is_standing
    store.cut_off()
    with pytest.raises(StoreUnavailable):
        await member._join()
    assert not member.fence.is_standing, "the request may have ended the earlier lease"


async def test_consumer_whose_key_was_deleted_is_ended(
    clock: FakeClock, fleet: MemoryFleet, hosts: tuple[Host, Host]
) -> None:
    first, second = hosts
    await first.unique.claim("llm")
    await first.unique.claim("tts")
    fleet.delete(fleet.keys.unique("llm"))
    assert await second.unique.claim("llm") == ""
    await first.unique._tidy()
    assert not first.unique.holds("llm")
    assert first.unique.holds("tts")
    assert second.unique.holds("llm")


async def test_slow_end_of_one_consumer_delays_no_other(clock: FakeClock, fleet: MemoryFleet) -> None:
    fence, store, began = Fence(clock), fleet.store(), list[frozenset[str]]()
    forever = asyncio.Event()

    async def fenced(lost: frozenset[str]) -> None:
        began.append(lost)
        await forever.wait()

    unique = UniqueConsumers(store, fleet.keys, H1, fence, clock, fenced)
    async with running(unique.run()):
        for name in ("llm", "tts"):
            await store.join(row())
            fence.joined(clock.boottime(), 10)
            await unique.claim(name)
            fence.drop()
            await clock.advance(0.5)
    assert began == [frozenset({"llm"}), frozenset({"tts"})]
