"""Routers know the holder of a unique consumer from its claim, before any row shows the consumer loaded there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from gpumand.fleet.calls import AcquireCall, PlaceCall
from gpumand.fleet.errors import NoHost
from gpumand.fleet.keys import Keys
from gpumand.fleet.row_json import encode_holder
from gpumand.fleet.rows import Holder, HostRow
from gpumand.fleet.store import Entry, Interrupted, Listing, Removed, Written
from gpumand.fleet.table import HostTable
from gpumand.fleet.unique_holders import MAX_KNOWN
from tests.unit.fleet.fleet_rows import COLD, consumer, host, machine_id
from tests.unit.fleet.scripted_fleet import FleetRouter, ScriptedFleet

DEADLINE_SEC = 30.0
KEYS = Keys("test")


@pytest.fixture(params=[1, 2])
async def fleet(request: pytest.FixtureRequest) -> AsyncIterator[ScriptedFleet]:
    """Two hosts with the unique consumer big, loaded on none by their rows; ``holder`` claims it."""
    big = consumer(COLD, unique=True)
    made = ScriptedFleet(*(host(number, version="1", gateway=f"http://gpu{number}:8770", big=big) for number in (1, 2)))
    await made.start()
    made.holder = f"gpu{request.param}"  # type: ignore[attr-defined]
    yield made
    await made.close()


async def claimed(fleet: ScriptedFleet) -> tuple[FleetRouter, HostRow]:
    """A router that knows the claim of the holder, and the row of the holder."""
    row = fleet.rows[fleet.holder]  # type: ignore[attr-defined]
    await fleet._stores[row.name].claim(fleet.keys.unique("big"), encode_holder(Holder(row.machine_id, "n")))
    router = await fleet.router()
    await until(router, lambda: router.table.holders.of("big"))
    return router, row


async def show(fleet: ScriptedFleet, row: HostRow) -> None:
    fleet.rows[row.name] = row
    await fleet._stores[row.name].update(row)


async def until(router: FleetRouter, condition: object) -> None:
    async with asyncio.timeout(DEADLINE_SEC):
        while not condition():  # type: ignore[operator]
            await router.table.wait_changed(1.0)


def away(row: HostRow) -> HostRow:
    return replace(row, version="", consumers={}, devices=(), seq=row.seq + 1)


async def test_requests_go_to_the_holder_although_no_row_shows_the_consumer_loaded(fleet: ScriptedFleet) -> None:
    router, row = await claimed(fleet)
    assert (await router.place(PlaceCall("big")))["host"] == row.name
    assert (await router.acquire(AcquireCall("big", 60.0))).grant["host"] == row.name


async def test_requests_wait_while_gpumand_of_the_holder_restarts_before_its_row_has_shown_the_load(
    fleet: ScriptedFleet,
) -> None:
    router, row = await claimed(fleet)
    await show(fleet, away(row))
    await until(router, lambda: router.table.absences.of_host(row.name))
    assert (await router.place(PlaceCall("big")))["host"] == row.name, "its gateway waits for gpumand"
    waiting = asyncio.ensure_future(router.acquire(AcquireCall("big", 60.0)))
    with pytest.raises(NoHost, match=rf"may be loaded on one host only: {row.name} \(its gpumand has given no answer"):
        await router.acquire(AcquireCall("big", 0.05))
    assert not waiting.done()
    await show(fleet, replace(row, seq=row.seq + 2))
    async with asyncio.timeout(DEADLINE_SEC):
        assert (await waiting).grant["host"] == row.name


async def test_router_that_starts_while_gpumand_of_the_holder_is_away_knows_the_holder_too(
    fleet: ScriptedFleet,
) -> None:
    row = fleet.rows[fleet.holder]  # type: ignore[attr-defined]
    await show(fleet, away(row))
    router, _ = await claimed(fleet)
    assert (await router.place(PlaceCall("big")))["host"] == row.name
    with pytest.raises(NoHost, match=rf"one host only: {row.name} \(its gpumand gives no answer\)"):
        await router.acquire(AcquireCall("big", 0.05))
    with pytest.raises(NoHost, match="one host only"):
        await router.place(PlaceCall("big", without=(row.name,)))


async def test_consumer_that_was_given_up_can_be_used_anywhere(fleet: ScriptedFleet) -> None:
    router, row = await claimed(fleet)
    await show(fleet, away(row))
    await fleet._stores[row.name].remove(fleet.keys.unique("big"))
    await until(router, lambda: not router.table.holders.of("big"))
    async with asyncio.timeout(DEADLINE_SEC):
        assert (await router.acquire(AcquireCall("big", 60.0))).grant["host"] != row.name


async def test_holder_that_does_not_have_the_consumer_any_more_does_not_count(fleet: ScriptedFleet) -> None:
    router, row = await claimed(fleet)
    await show(fleet, replace(row, consumers={}, seq=row.seq + 1))
    await until(router, lambda: not router.table.rows[row.machine_id].row.consumers)
    assert (await router.acquire(AcquireCall("big", 60.0))).grant["host"] != row.name


# -- the table ---------------------------------------------------------------------------------------------------------


def claim(name: str, number: int, revision: int = 1) -> Entry:
    return Entry(KEYS.uniques + name, encode_holder(Holder(machine_id(number), "n")), revision)


async def test_claims_follow_the_watch() -> None:
    table = HostTable(KEYS, asyncio.get_running_loop().time)
    table.apply(Listing((claim("big", 1), claim("small", 2)), 2))
    assert (table.holders.of("big"), table.holders.of("small")) == (machine_id(1), machine_id(2))
    table.apply(Written(claim("big", 2, 3)))
    assert table.holders.of("big") == machine_id(2)
    table.apply(Removed(KEYS.unique("small"), 4))
    assert not table.holders.of("small")
    table.apply(Interrupted("no quorum"))
    assert table.holders.of("big") == machine_id(2)
    table.apply(Listing((), 5))
    assert not table.holders.of("big")


async def test_hostile_claims_are_ignored_and_limited() -> None:
    table = HostTable(KEYS, asyncio.get_running_loop().time)
    table.apply(Listing((claim("big", 1),), 1))
    for text in ("", "{", "[]", '{"host":"gpu1"}', '{"host":7}', "x" * 100_000):
        table.apply(Written(Entry(KEYS.unique("big"), text, 2)))
        assert not table.holders.of("big"), "a claim that cannot be read is no claim of the former host"
    table.apply(Written(Entry(KEYS.uniques + "../x", claim("big", 1).value, 2)))
    for number in range(MAX_KNOWN + 10):
        table.apply(Written(claim(f"c{number}", 1, 3 + number)))
    assert len(table.holders.keys) == MAX_KNOWN
