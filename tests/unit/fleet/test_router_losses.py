"""Routers whose hosts refuse or are lost, and whose store is away."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.errors import (
    Busy,
    InsufficientVram,
    InvalidArgs,
    NotNowError,
    TimedOut,
)
from gpumand.fleet.calls import AcquireCall, Basis, LoadCall, PlaceCall
from gpumand.fleet.errors import HostLost
from gpumand.fleet.remote_host import HOST_LOST
from gpumand.fleet.row_json import encode_intent
from gpumand.fleet.rows import Intent
from gpumand.fleet.store import Entry
from tests.unit.fleet.fleet_rows import COLD, consumer, host, machine_id
from tests.unit.fleet.router_setup import intents, started_fleet
from tests.unit.fleet.scripted_fleet import ScriptedFleet, lost
from tests.waiting import until

# -- refusals and losses ---------------------------------------------------------------------------------------------


async def test_three_hosts_are_tried_then_the_request_waits_at_the_best(cold: ScriptedFleet) -> None:
    router = await cold.router()
    for one in cold.hosts.values():
        one.answers = [Busy(f"{one.name} is busy")]

    await router.acquire(AcquireCall("chat", 100.0))

    calls = sorted((call.wait_sec for one in cold.hosts.values() for call in one.acquired), reverse=True)
    assert len(calls) == 4
    assert calls[0] > 90.0, "the last request has the whole time"
    assert all(wait <= 30.0 for wait in calls[2:]), "others wait half a minute at most"


async def test_request_that_no_host_serves_has_the_reasons_of_all(cold: ScriptedFleet) -> None:
    router = await cold.router()
    for one in cold.hosts.values():
        one.answers = [InsufficientVram(f"no room on {one.name}")] * 2

    with pytest.raises(InsufficientVram) as refusal:
        await router.acquire(AcquireCall("chat", 5.0))

    assert all(f"no room on {name}" in refusal.value.message for name in cold.hosts)


async def test_wrong_request_is_not_repeated_on_other_hosts(cold: ScriptedFleet) -> None:
    router = await cold.router()
    for one in cold.hosts.values():
        one.answers = [InvalidArgs("no such option")]
    with pytest.raises(InvalidArgs):
        await router.acquire(AcquireCall("chat", 5.0))
    assert sum(len(one.acquired) for one in cold.hosts.values()) == 1
    await until(lambda: not intents(cold), "the intent is dropped")


async def test_consumer_of_a_lost_host_is_loaded_on_another_one(resident: ScriptedFleet) -> None:
    router = await resident.router()
    resident.hosts["gpu2"].answers = [lost("gpu2")] * 9

    lease = await router.acquire(AcquireCall("chat", 5.0))

    assert lease.grant["host"] in ("gpu1", "gpu3")
    assert machine_id(2) in router.table.losses()
    assert len(resident.hosts["gpu2"].acquired) == 1


async def test_broken_lease_marks_its_host_as_lost(resident: ScriptedFleet) -> None:
    router = await resident.router()
    lease = await router.acquire(AcquireCall("chat", 5.0))
    resident.hosts["gpu2"].leases[0].ended.set_result(HOST_LOST)
    assert await lease.wait_ended() == HOST_LOST
    assert machine_id(2) in router.table.losses()


async def test_timeout_of_the_only_host_is_the_answer(resident: ScriptedFleet) -> None:
    router = await resident.router()
    resident.hosts["gpu2"].answers = [TimedOut("leased")] * 9
    with pytest.raises(TimedOut):
        await router.acquire(AcquireCall("chat", 0.0))
    assert not any(resident.hosts[name].acquired for name in ("gpu1", "gpu3")), "no second load"


async def test_cancelled_request_drops_its_intent(cold: ScriptedFleet) -> None:
    router, reached = await cold.router(), asyncio.Event()

    async def hang() -> None:
        reached.set()
        await asyncio.Event().wait()

    for one in cold.hosts.values():
        one.before = hang
    acquiring = asyncio.ensure_future(router.acquire(AcquireCall("chat", 60.0)))
    await reached.wait()
    assert intents(cold)
    acquiring.cancel()
    await asyncio.gather(acquiring, return_exceptions=True)
    await until(lambda: not intents(cold), "the intent is dropped")


# -- the store is away -----------------------------------------------------------------------------------------------


async def test_without_the_store_requests_are_placed_by_the_last_table_and_marked(cold: ScriptedFleet) -> None:
    router = await cold.router()
    router.store.cut_off()
    await until(lambda: router.table.interruption, "the watch is interrupted")

    lease = await router.acquire(AcquireCall("chat", 5.0))

    assert "link is cut" in lease.grant["degraded"]
    (call,) = [call for one in cold.hosts.values() for call in one.acquired]
    assert (call.basis, call.revision) == (Basis.NONE, None)


async def test_claim_whose_answer_is_lost_does_not_fail_the_request(cold: ScriptedFleet) -> None:
    router = await cold.router()
    router.store.link.is_cut = True  # without an interruption of the watch, as in the first moment of an outage

    lease = await router.acquire(AcquireCall("chat", 5.0))

    assert lease.grant["degraded"]


async def test_static_peers_have_no_intents_and_are_not_degraded(cold: ScriptedFleet) -> None:
    router = await cold.router(are_possible=False)
    lease = await router.acquire(AcquireCall("chat", 5.0))
    assert "degraded" not in lease.grant
    assert not intents(cold)


async def test_intent_that_is_gone_already_is_not_learned_again(cold: ScriptedFleet) -> None:
    router = await cold.router()
    store = cold.memory.store()
    value = encode_intent(Intent(machine_id(1), "other", "n"))
    claim = await store.claim(cold.keys.intent("chat"), value, 15.0)
    await store.release(cold.keys.intent("chat"), value)
    await until(lambda: router.table.revision == cold.memory.revision, "the watch has seen both")
    router.table.learn(Entry(cold.keys.intent("chat"), value, claim.revision))
    assert not router.table.view().intents


async def test_load_is_tried_on_the_next_host_when_one_is_lost(cold: ScriptedFleet) -> None:
    router = await cold.router()
    first = router._placer.candidates("chat", ())[0].row
    cold.hosts[first.name].load_error = lost(first.name)
    loaded = await router.load(LoadCall("chat"))
    assert loaded["host"] != first.name
    assert first.machine_id in router.table.losses()


async def test_load_on_a_named_host_that_is_lost_is_refused_and_noted(cold: ScriptedFleet) -> None:
    router = await cold.router()
    cold.hosts["gpu2"].load_error = lost("gpu2")
    with pytest.raises(HostLost):
        await router.load(LoadCall("chat", 0.0, on="gpu2"))
    assert machine_id(2) in router.table.losses()


async def test_unique_consumer_is_not_placed_while_no_store_decides() -> None:
    made = await started_fleet(host(1, chat=consumer(COLD, unique=True), image=consumer(COLD)))
    router, static = await made.router(), await made.router(are_possible=False)
    assert (await router.place(PlaceCall("chat")))["host"] == "gpu1"
    with pytest.raises(NotNowError, match="static peers"):
        await static.place(PlaceCall("chat"))
    router.store.cut_off()
    await until(lambda: router.table.interruption, "the router notices")
    with pytest.raises(NotNowError, match="the link is cut"):
        await router.place(PlaceCall("chat"))
    assert (await router.place(PlaceCall("image")))["host"] == "gpu1"
    await made.close()
