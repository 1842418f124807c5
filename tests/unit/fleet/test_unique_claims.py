"""Unique consumers of hosts that renew, are cut off, or join again: one host at a time has each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gpumand.fleet.fence import Fence
from gpumand.fleet.member import Member
from gpumand.fleet.store import MembershipLost, StoreUnavailable
from gpumand.fleet.unique import UniqueConsumers
from gpumand.testing.clock import FakeClock
from gpumand.testing.fleet_store import Link, MemoryFleet, MemoryStore
from tests.unit.fleet.member_setup import running
from tests.unit.fleet.rows import H1, H2, row


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


async def test_unique_consumer_ends_at_once_after_a_resume(clock: FakeClock, hosts: tuple[Host, Host]) -> None:
    first, _ = hosts
    await first.unique.claim("llm")
    clock.suspend(60)
    await clock.advance(0.2)
    assert first.fenced == ["llm"]


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
