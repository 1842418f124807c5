"""A host joins, renews, publishes on change, and is fenced in time, on a clock that is held."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpumand.fleet.fence import Fence
from gpumand.fleet.member import Member, MemberState
from gpumand.fleet.publisher import interval_sec
from gpumand.fleet.row_json import MAX_ROW_BYTES
from gpumand.testing.clock import FakeClock
from gpumand.testing.fleet_store import Link, MemoryFleet
from tests.unit.fleet.member_setup import Hanging, published, running, state_of
from tests.unit.fleet.rows import RESIDENT, row

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


def test_older_renewal_does_not_shorten_the_fence(clock: FakeClock) -> None:
    fence = Fence(clock)
    fence.joined(clock.boottime(), 10)
    fence.renewed(clock.boottime() - 5, 10)
    assert fence.remaining_sec == pytest.approx(9)
