"""Hosts that restart: their consumers are not forgotten, and requests for them wait or are refused with their name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from gpumand.client.errors import NotRunning
from gpumand.domain.errors import NoSuchConsumer
from gpumand.fleet.absences import KNOWN_SEC, MAX_ABSENCES, RETURN_SEC, Absences
from gpumand.fleet.calls import AcquireCall, PlaceCall, PlanCall
from gpumand.fleet.errors import NoHost, NoSuchHost
from gpumand.fleet.named_host import AGAIN_SEC
from gpumand.fleet.rows import HostRow
from tests.unit.fleet.fleet_rows import COLD, RESIDENT, consumer, host, machine_id
from tests.unit.fleet.scripted_fleet import ScriptedFleet, lost

DEADLINE_SEC = 30.0


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def fleet() -> AsyncIterator[ScriptedFleet]:
    """gpu1 has chat, and only gpu2 has big."""
    made = ScriptedFleet(
        host(1, version="1", chat=consumer(COLD)),
        host(2, version="1", gateway="http://gpu2:8770", big=consumer(RESIDENT), chat=consumer(COLD)),
    )
    await made.start()
    yield made
    await made.close()


def away(row: HostRow) -> HostRow:
    """The row of a host whose gpumand gives no answer."""
    return replace(row, version="", consumers={}, devices=(), seq=row.seq + 1)


async def show(fleet: ScriptedFleet, row: HostRow) -> None:
    fleet.rows[row.name] = row
    await fleet._stores[row.name].update(row)


async def until_absent(router: object, name: str = "gpu2") -> None:
    async with asyncio.timeout(DEADLINE_SEC):
        while router.table.absences.of_host(name) is None:  # type: ignore[attr-defined]
            await router.table.wait_changed(1.0)  # type: ignore[attr-defined]


# -- what is remembered ------------------------------------------------------------------------------------------------


def test_consumers_of_an_absent_host_are_remembered_for_a_while() -> None:
    clock = Clock()
    absences = Absences(clock)
    row = host(2, version="1", big=consumer())
    absences.note_replaced(row, away(row))
    assert [one.row for one in absences.having("big")] == [row]
    assert absences.wait_sec("big") == RETURN_SEC
    assert absences.wait_sec("other") == 0.0
    clock.now += RETURN_SEC + 1
    assert absences.wait_sec("big") == 0.0
    assert absences.having("big")
    clock.now += KNOWN_SEC
    assert absences.current() == []


def test_host_that_is_back_is_not_absent_whatever_it_has_now() -> None:
    absences = Absences(Clock())
    row = host(2, version="1", big=consumer())
    absences.note_removed(row)
    absences.note_replaced(None, replace(row, consumers={}))
    assert absences.current() == []


def test_host_that_leaves_while_its_gpumand_is_absent_keeps_the_consumers_and_the_time() -> None:
    clock = Clock()
    absences = Absences(clock)
    row = host(2, version="1", big=consumer())
    absences.note_replaced(row, away(row))
    assert "its gpumand has given no answer for 0 s" in absences.describe(absences.current()[0])
    clock.now += 10
    absences.note_removed(away(row))
    (found,) = absences.having("big")
    assert (found.since_sec, found.has_agent) == (1000.0, False)
    assert absences.describe(found) == "gpu2 (it has not been in the fleet for 10 s)"


def test_number_of_remembered_hosts_is_limited_and_the_newest_are_kept() -> None:
    absences = Absences(Clock())
    for number in range(MAX_ABSENCES + 5):
        absences.note_removed(host(number, version="1"))
    assert len(absences.current()) == MAX_ABSENCES
    assert absences.of_host("gpu4") is None
    assert absences.of_host(machine_id(MAX_ABSENCES + 4)) is not None


# -- requests ----------------------------------------------------------------------------------------------------------


async def test_request_waits_until_gpumand_of_the_only_host_is_back(fleet: ScriptedFleet) -> None:
    router, row = await fleet.router(), fleet.rows["gpu2"]
    await show(fleet, away(row))
    await until_absent(router)
    waiting = asyncio.ensure_future(router.acquire(AcquireCall("big", 60.0)))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await show(fleet, replace(row, seq=row.seq + 2))
    async with asyncio.timeout(DEADLINE_SEC):
        assert (await waiting).grant["host"] == "gpu2"


async def test_request_waits_until_the_agent_of_the_only_host_is_back(fleet: ScriptedFleet) -> None:
    router, row = await fleet.router(), fleet.rows["gpu2"]
    await fleet._stores["gpu2"].leave()
    await until_absent(router)
    waiting = asyncio.ensure_future(router.acquire(AcquireCall("big", 60.0)))
    chosen = asyncio.ensure_future(router.acquire(AcquireCall("big", 60.0, on="gpu2")))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    assert not chosen.done()
    await fleet._stores["gpu2"].join(row)
    async with asyncio.timeout(DEADLINE_SEC):
        assert (await waiting).grant["host"] == (await chosen).grant["host"] == "gpu2"


async def test_host_that_was_installed_again_is_used_at_once_by_its_name(fleet: ScriptedFleet) -> None:
    """It has another machine id then, and the old one never comes back."""
    router, row = await fleet.router(), fleet.rows["gpu2"]
    await fleet._stores["gpu2"].leave()
    await until_absent(router)
    await fleet._stores["gpu2"].join(replace(row, machine_id=machine_id(9)))
    async with asyncio.timeout(DEADLINE_SEC):
        while router.table.find("gpu2") is None:
            await router.table.wait_changed(1.0)
        lease = await router.acquire(AcquireCall("big", 3600.0, on="gpu2"))
    assert lease.grant["host"] == "gpu2"


async def test_request_whose_time_has_passed_is_refused_with_the_host(fleet: ScriptedFleet) -> None:
    router = await fleet.router()
    await show(fleet, away(fleet.rows["gpu2"]))
    await until_absent(router)
    words = r"the host that has big is not reachable at the moment: gpu2 \(its gpumand has given no answer for \d+ s\)"
    with pytest.raises(NoHost, match=words):
        await router.acquire(AcquireCall("big", 0.05))
    with pytest.raises(NoHost, match=words):
        await router.plan(PlanCall("big"))
    await fleet._stores["gpu2"].leave()
    while machine_id(2) in router.table.rows:
        await router.table.wait_changed(DEADLINE_SEC)
    with pytest.raises(NoHost, match=r"it has not been in the fleet for \d+ s"):
        await router.acquire(AcquireCall("big", 0.05))
    with pytest.raises(NoHost, match=r"gpu2 .* is not reachable at the moment"):
        await router.acquire(AcquireCall("big", 0.05, on="gpu2"))


async def test_unknown_consumers_and_hosts_are_still_refused_at_once(fleet: ScriptedFleet) -> None:
    router = await fleet.router()
    await show(fleet, away(fleet.rows["gpu2"]))
    await until_absent(router)
    async with asyncio.timeout(DEADLINE_SEC):
        with pytest.raises(NoSuchConsumer, match="no host of the fleet has a consumer 'bigg'"):
            await router.acquire(AcquireCall("bigg", 600.0))
        with pytest.raises(NoSuchHost):
            await router.acquire(AcquireCall("big", 600.0, on="gpu3"))


async def test_consumers_of_a_host_that_never_gave_an_answer_are_unknown_and_not_absent(fleet: ScriptedFleet) -> None:
    await show(fleet, away(fleet.rows["gpu2"]))
    router = await fleet.router()
    with pytest.raises(NoHost, match="the consumers of gpu2 are not known, because gpumand gives no answer there"):
        await router.acquire(AcquireCall("big", 0.05))


async def test_request_that_reaches_a_host_whose_gpumand_has_just_stopped_is_sent_again(fleet: ScriptedFleet) -> None:
    router, stopped = await fleet.router(), fleet.hosts["gpu2"]
    stopped.answers = [NotRunning("gpumand is not running")] * 2
    async with asyncio.timeout(DEADLINE_SEC):
        lease = await router.acquire(AcquireCall("big", 60.0))
    assert lease.grant["host"] == "gpu2"
    assert len(stopped.acquired) == 3


@pytest.mark.parametrize("on", ["", "gpu2"])
async def test_host_that_stays_away_without_showing_it_is_asked_for_a_minute_and_not_at_each_change_of_the_table(
    fleet: ScriptedFleet, monkeypatch: pytest.MonkeyPatch, on: str
) -> None:
    for module in ("router", "named_host"):
        monkeypatch.setattr(f"gpumand.fleet.{module}.RETURN_SEC", 4 * AGAIN_SEC)
    router, stopped = await fleet.router(), fleet.hosts["gpu2"]
    stopped.answers = [NotRunning("gpumand is not running") for _ in range(10_000)]

    async def change_often() -> None:
        while True:
            router.table._announce()
            await asyncio.sleep(0.001)

    changing = asyncio.create_task(change_often())
    try:
        async with asyncio.timeout(DEADLINE_SEC):
            with pytest.raises(NotRunning):
                await router.acquire(AcquireCall("big", 600.0, on=on))
    finally:
        changing.cancel()
    # About six times; a thousand without the pause.
    assert 2 <= len(stopped.acquired) <= 40


async def test_host_that_had_the_request_in_its_queue_gets_a_whole_minute_to_return(
    fleet: ScriptedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpumand.fleet.router.RETURN_SEC", AGAIN_SEC)
    router, stopped = await fleet.router(), fleet.hosts["gpu2"]
    stopped.answers = [NotRunning("gpumand is not running") for _ in range(4)]

    async def queue() -> None:
        if len(stopped.acquired) in (2, 3, 4):
            await asyncio.sleep(2 * AGAIN_SEC)

    stopped.before = queue
    async with asyncio.timeout(DEADLINE_SEC):
        lease = await router.acquire(AcquireCall("big", 600.0))
    assert lease.grant["host"] == "gpu2"


async def test_request_to_the_only_host_which_is_lost_waits_for_it(fleet: ScriptedFleet) -> None:
    router, row = await fleet.router(), fleet.rows["gpu2"]
    fleet.hosts["gpu2"].answers = [lost("gpu2")]
    waiting = asyncio.ensure_future(router.acquire(AcquireCall("big", 60.0)))
    async with asyncio.timeout(DEADLINE_SEC):
        while not router.table.losses():
            await router.table.wait_changed(1.0)
    assert not waiting.done()
    await fleet._stores["gpu2"].leave()
    await fleet._stores["gpu2"].join(replace(row, seq=row.seq + 5))
    router.table.note_reached(machine_id(2))
    await show(fleet, replace(row, epoch=99))
    async with asyncio.timeout(DEADLINE_SEC):
        assert (await waiting).grant["host"] == "gpu2"


# -- places ------------------------------------------------------------------------------------------------------------


async def test_gateway_is_sent_to_the_gateway_of_the_host_whose_gpumand_restarts(fleet: ScriptedFleet) -> None:
    router = await fleet.router()
    await show(fleet, away(fleet.rows["gpu2"]))
    await until_absent(router)
    answer = await router.place(PlaceCall("big"))
    assert (answer["host"], answer["gateway"]) == ("gpu2", "http://gpu2:8770")
    assert (await router.place(PlaceCall("chat")))["host"] == "gpu1", "another host can be used at once"
    with pytest.raises(NoHost, match="not reachable at the moment"):
        await router.place(PlaceCall("big", without=("gpu2",)))
    await fleet._stores["gpu2"].leave()
    while machine_id(2) in router.table.rows:
        await router.table.wait_changed(DEADLINE_SEC)
    with pytest.raises(NoHost, match="not reachable at the moment"):
        await router.place(PlaceCall("big"))


async def test_unique_consumer_is_not_asked_for_elsewhere_while_gpumand_of_its_host_restarts() -> None:
    fleet = ScriptedFleet(
        host(1, version="1", big=consumer(COLD, unique=True)),
        host(2, version="1", gateway="http://gpu2:8770", big=consumer(RESIDENT, unique=True)),
    )
    await fleet.start()
    try:
        router, row = await fleet.router(), fleet.rows["gpu2"]
        await show(fleet, away(row))
        await until_absent(router)
        assert (await router.place(PlaceCall("big")))["host"] == "gpu2"
        waiting = asyncio.ensure_future(router.acquire(AcquireCall("big", 60.0)))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await show(fleet, replace(row, seq=row.seq + 2))
        async with asyncio.timeout(DEADLINE_SEC):
            assert (await waiting).grant["host"] == "gpu2"
        await fleet._stores["gpu2"].leave()
        await until_absent(router)
        async with asyncio.timeout(DEADLINE_SEC):
            assert (await router.acquire(AcquireCall("big", 60.0))).grant["host"] == "gpu1", "its claim has ended too"
    finally:
        await fleet.close()
