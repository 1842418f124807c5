"""The store in memory behaves as the port says, so that tests of other parts can rely on it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import cast

import pytest

from gpumand.fleet.row_json import parse_host
from gpumand.fleet.store import (
    Claim,
    Denied,
    Interrupted,
    Listing,
    MembershipLost,
    Removed,
    StoreUnavailable,
    Written,
)
from gpumand.testing.clock import FakeClock
from gpumand.testing.fleet_store import MemoryFleet
from tests.unit.fleet.rows import H1, H2, row


async def test_row_disappears_with_the_lease_of_its_host(clock: FakeClock, fleet: MemoryFleet) -> None:
    store = fleet.store()
    await store.join(row())
    await clock.advance(9)
    await store.renew()
    await clock.advance(9)
    assert fleet.value(fleet.keys.host(H1))
    await clock.advance(1)
    assert fleet.value(fleet.keys.host(H1)) is None
    with pytest.raises(MembershipLost):
        await store.renew()


async def test_older_row_does_not_replace_a_newer_one(fleet: MemoryFleet) -> None:
    store = fleet.store()
    await store.join(row(epoch=5, seq=1))
    revision = await store.update(row(epoch=5, seq=3))
    assert await store.update(row(epoch=5, seq=2)) == revision
    found = await store.list(fleet.keys.hosts)
    assert parse_host(found.entries[0].value).order == (5, 3)


async def test_host_whose_clock_was_set_back_gets_a_higher_epoch(fleet: MemoryFleet) -> None:
    await fleet.store().join(row(epoch=100))
    assert (await fleet.store().join(row(epoch=7))).epoch == 101


async def test_epoch_rises_although_the_earlier_row_is_gone(clock: FakeClock, fleet: MemoryFleet) -> None:
    before = (await fleet.store().join(row())).epoch
    await clock.advance(11)
    assert (await fleet.store().join(row())).epoch > before


async def test_second_claim_gets_the_value_of_the_first(fleet: MemoryFleet) -> None:
    first, second = fleet.store(), fleet.store()
    key = fleet.keys.intent("llm")
    won = await first.claim(key, "a", 15)
    assert won.ok
    assert await second.claim(key, "b", 15) == Claim(False, won.revision, "a")
    assert await first.claim(key, "a", 15) == won
    await second.release(key, "b")
    assert fleet.value(key) == "a"
    await first.release(key, "a")
    assert (await second.claim(key, "b", 15)).ok


async def test_claim_ends_after_its_time_unless_it_is_repeated(clock: FakeClock, fleet: MemoryFleet) -> None:
    store, key = fleet.store(), fleet.keys.intent("llm")
    await store.claim(key, "a", 15)
    await clock.advance(14)
    await store.claim(key, "a", 15)
    await clock.advance(14)
    assert fleet.value(key) == "a"
    await clock.advance(1)
    assert fleet.value(key) is None


async def test_claim_replaces_a_former_one_only(fleet: MemoryFleet) -> None:
    first, key = fleet.store(), fleet.keys.unique("llm")
    await first.join(row(H1))
    await first.claim(key, "one")
    assert not (await first.claim(key, "two", former="none")).ok
    assert (await first.claim(key, "two", former="one")).ok
    await first.release(key, "one")
    assert fleet.value(key) == "two"


async def test_claim_of_an_agent_that_was_killed_is_bound_to_the_next_agent(
    clock: FakeClock, fleet: MemoryFleet
) -> None:
    killed, next_one, key = fleet.store(), fleet.store(), fleet.keys.unique("llm")
    await killed.join(row())
    await killed.claim(key, H1)
    await clock.advance(5)
    await next_one.join(row(epoch=2))
    assert (await next_one.claim(key, H1)).ok
    await clock.advance(6)  # the lease of the killed agent has ended
    assert fleet.value(key) == H1


async def test_unique_claim_needs_a_membership(fleet: MemoryFleet) -> None:
    with pytest.raises(MembershipLost):
        await fleet.store().claim(fleet.keys.unique("llm"), H1)


async def test_watch_reports_a_listing_then_changes(clock: FakeClock, fleet: MemoryFleet) -> None:
    writer = fleet.store()
    await writer.join(row())
    async with aclosing(watched(fleet)) as changes:
        first = await anext(changes)
        assert isinstance(first, Listing)
        assert [one.key for one in first.entries] == [fleet.keys.host(H1)]
        await writer.update(row(seq=2, epoch=9))
        assert isinstance(await anext(changes), Written)
        await writer.leave()
        removed = await anext(changes)
        assert isinstance(removed, Removed)
        assert removed.key == fleet.keys.host(H1)


def watched(fleet: MemoryFleet) -> AsyncGenerator[object]:
    return cast(AsyncGenerator[object], fleet.store().watch(fleet.keys.hosts))


async def test_watch_reports_a_cut_and_what_is_there_afterwards(fleet: MemoryFleet) -> None:
    watcher, writer = fleet.store(), fleet.store()
    changes = watcher.watch(fleet.keys.hosts)
    await anext(changes)
    watcher.cut_off()
    await writer.join(row(H2))
    assert isinstance(await anext(changes), Interrupted)
    watcher.heal()
    again = await anext(changes)
    assert isinstance(again, Listing)
    assert [one.key for one in again.entries] == [fleet.keys.host(H2)]


async def test_cut_link_and_refused_operation_differ(fleet: MemoryFleet) -> None:
    store = fleet.store()
    store.cut_off()
    with pytest.raises(StoreUnavailable):
        await store.list(fleet.keys.hosts)
    store.heal()
    store.link.denied = True
    with pytest.raises(Denied):
        await store.join(row())


async def test_pin_stays_without_any_host(clock: FakeClock, fleet: MemoryFleet) -> None:
    store = fleet.store()
    await store.put(fleet.keys.pin("llm"), H1, lasting=True)
    await clock.advance(1000)
    assert fleet.value(fleet.keys.pin("llm")) == H1
    await store.remove(fleet.keys.pin("llm"))
    assert fleet.value(fleet.keys.pin("llm")) is None


async def test_host_with_the_machine_id_of_another_host_does_not_join(clock: FakeClock, fleet: MemoryFleet) -> None:
    await fleet.store().join(row(H1))
    copy = replace(row(H1), name="copy", url="https://copy:8447")
    with pytest.raises(Denied, match="machine id"):
        await fleet.store().join(copy)
    await clock.advance(11)
    await fleet.store().join(copy)
