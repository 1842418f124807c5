"""Routers: which host gets a request, what is claimed for it, and what happens when hosts refuse or are lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest

from gpumand.domain.errors import (
    Busy,
    InsufficientVram,
    InvalidArgs,
    LoadFailed,
    NoSuchConsumer,
    NotNowError,
    TimedOut,
)
from gpumand.fleet.calls import AcquireCall, Basis, DrainCall, LoadCall, PlaceCall, PlanCall
from gpumand.fleet.errors import HostLost, NoHost, NoSuchHost, NotResident, StaleToken
from gpumand.fleet.intents import IntentGuard
from gpumand.fleet.remote_host import HOST_LOST
from gpumand.fleet.row_json import encode_intent
from gpumand.fleet.rows import HostRow, Intent
from gpumand.fleet.store import Entry
from tests.unit.fleet.fleet_rows import COLD, LOADING, RESIDENT, consumer, host, machine_id
from tests.unit.fleet.scripted_fleet import ScriptedFleet, lost

DEADLINE_SEC = 30.0


@pytest.fixture
async def fleet() -> AsyncIterator[ScriptedFleet]:
    """Three hosts; chat is loaded on none."""
    started = await started_fleet(*(host(number, chat=consumer(COLD)) for number in (1, 2, 3)))
    yield started
    await started.close()


@pytest.fixture
async def resident() -> AsyncIterator[ScriptedFleet]:
    """Three hosts; chat is loaded on gpu2."""
    started = await started_fleet(
        host(1, chat=consumer(COLD)), host(2, chat=consumer(RESIDENT)), host(3, chat=consumer(COLD))
    )
    yield started
    await started.close()


async def started_fleet(*rows: HostRow) -> ScriptedFleet:
    made = ScriptedFleet(*rows)
    await made.start()
    return made


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition; fails with the words after a deadline."""
    deadline = asyncio.get_running_loop().time() + DEADLINE_SEC
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"not in time: {what}"
        await asyncio.sleep(0.005)


def intents(fleet: ScriptedFleet) -> list[str]:
    return [entry.key for entry in fleet.memory.listing(fleet.keys.intents).entries]


# -- loaded consumers ------------------------------------------------------------------------------------------------


async def test_resident_consumer_is_acquired_without_a_write_and_without_questions(resident: ScriptedFleet) -> None:
    router = await resident.router()
    revision = resident.memory.revision

    lease = await router.acquire(AcquireCall("chat", 5.0, user="alice"))

    assert lease.grant["host"] == "gpu2"
    (call,) = resident.hosts["gpu2"].acquired
    assert (call.basis, call.user) == (Basis.RESIDENT, "alice")
    assert call.revision == router.table.rows[machine_id(2)].revision
    assert resident.memory.revision == revision, "nothing was written to the store"
    assert not any(one.planned for one in resident.hosts.values())


async def test_consumer_that_was_unloaded_meanwhile_is_placed_again_with_an_intent(resident: ScriptedFleet) -> None:
    router, gpu2 = await resident.router(), resident.hosts["gpu2"]
    gpu2.answers = [NotResident("chat is not loaded on gpu2 any more")]
    gpu2.before = lambda: resident.publish("gpu2", chat=COLD)

    lease = await router.acquire(AcquireCall("chat", 5.0))

    calls = [call for one in resident.hosts.values() for call in one.acquired]
    assert [call.basis for call in calls] == [Basis.RESIDENT, Basis.INTENT]
    assert lease.grant["host"] in resident.hosts


async def test_router_with_an_old_table_reads_the_new_one_and_tries_again(resident: ScriptedFleet) -> None:
    router, gpu2 = await resident.router(), resident.hosts["gpu2"]
    gpu2.answers = [StaleToken("old", resident.memory.revision + 1)]
    gpu2.before = lambda: resident.publish("gpu2", chat=RESIDENT)

    await router.acquire(AcquireCall("chat", 5.0))

    first, second = (call.revision for call in gpu2.acquired)
    assert first is not None
    assert second is not None
    assert second > first


# -- loads -----------------------------------------------------------------------------------------------------------


async def test_load_is_claimed_before_the_host_is_asked_and_kept_until_its_row_shows_it(fleet: ScriptedFleet) -> None:
    router = await fleet.router()
    seen: list[list[str]] = []
    for one in fleet.hosts.values():
        one.before = lambda: _note(seen, intents(fleet))

    lease = await router.acquire(AcquireCall("chat", 5.0))

    assert seen == [[fleet.keys.intent("chat")]]
    assert intents(fleet) == [fleet.keys.intent("chat")], "the row does not show it yet"
    await fleet.publish(lease.grant["host"], chat=LOADING)
    await until(lambda: not intents(fleet), "the intent is released")


async def _note(seen: list[list[str]], found: list[str]) -> None:
    seen.append(found)


async def test_two_routers_send_their_requests_for_a_load_to_the_same_host(fleet: ScriptedFleet) -> None:
    first, second = await fleet.router(), await fleet.router()
    # Their tables differ: the second one believes that another host is the best.
    fleet.hosts["gpu1"].quote = {"verdict": "grant", "expected_usec": 1_000_000}
    leases = await asyncio.gather(*(one.acquire(AcquireCall("chat", 5.0)) for one in (first, second, first, second)))

    assert len({lease.grant["host"] for lease in leases}) == 1
    calls = [call for one in fleet.hosts.values() for call in one.acquired]
    assert {call.basis for call in calls} == {Basis.INTENT}
    assert len({call.revision for call in calls}) == 1


async def test_failed_load_drops_its_intent_and_goes_to_the_next_host(fleet: ScriptedFleet) -> None:
    router = await fleet.router()
    for one in fleet.hosts.values():
        one.answers = [LoadFailed(f"chat did not start on {one.name}")]
    tried: list[str] = []
    for one in fleet.hosts.values():
        one.before = partial(_name, tried, one.name)
    fleet.hosts["gpu3"].answers = []

    lease = await router.acquire(AcquireCall("chat", 5.0))

    assert lease.grant["host"] == "gpu3"
    assert len(tried) == len(set(tried)) <= 3
    kept = [entry.value for entry in fleet.memory.listing(fleet.keys.intents).entries]
    assert all(machine_id(3) in value for value in kept)


async def _name(tried: list[str], name: str) -> None:
    tried.append(name)


async def test_hosts_are_asked_what_a_load_would_cost_there(fleet: ScriptedFleet) -> None:
    router = await fleet.router()
    for one in fleet.hosts.values():
        one.quote = {"verdict": "grant", "expected_usec": 10_000_000, "victims_usec": 60_000_000}
    await router.acquire(AcquireCall("chat", 5.0))
    asked = [name for name, one in fleet.hosts.items() if one.planned]
    assert len(asked) == 2
    chosen = [name for name, one in fleet.hosts.items() if one.acquired]
    assert not set(chosen) & set(asked), "the third host has no victims that are known, so it is estimated as cheaper"


async def test_host_that_does_not_answer_the_question_is_lost(fleet: ScriptedFleet) -> None:
    router = await fleet.router()
    for one in fleet.hosts.values():
        one.quote = lost(one.name)
    await router.acquire(AcquireCall("chat", 5.0))
    assert len(router.table.losses()) >= 1


# -- refusals and losses ---------------------------------------------------------------------------------------------


async def test_three_hosts_are_tried_then_the_request_waits_at_the_best(fleet: ScriptedFleet) -> None:
    router = await fleet.router()
    for one in fleet.hosts.values():
        one.answers = [Busy(f"{one.name} is busy")]

    await router.acquire(AcquireCall("chat", 100.0))

    calls = sorted((call.wait_sec for one in fleet.hosts.values() for call in one.acquired), reverse=True)
    assert len(calls) == 4
    assert calls[0] > 90.0, "the last request has the whole time"
    assert all(wait <= 30.0 for wait in calls[2:]), "others wait half a minute at most"


async def test_request_that_no_host_serves_has_the_reasons_of_all(fleet: ScriptedFleet) -> None:
    router = await fleet.router()
    for one in fleet.hosts.values():
        one.answers = [InsufficientVram(f"no room on {one.name}")] * 2

    with pytest.raises(InsufficientVram) as refusal:
        await router.acquire(AcquireCall("chat", 5.0))

    assert all(f"no room on {name}" in refusal.value.message for name in fleet.hosts)


async def test_wrong_request_is_not_repeated_on_other_hosts(fleet: ScriptedFleet) -> None:
    router = await fleet.router()
    for one in fleet.hosts.values():
        one.answers = [InvalidArgs("no such option")]
    with pytest.raises(InvalidArgs):
        await router.acquire(AcquireCall("chat", 5.0))
    assert sum(len(one.acquired) for one in fleet.hosts.values()) == 1
    await until(lambda: not intents(fleet), "the intent is dropped")


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


async def test_cancelled_request_drops_its_intent(fleet: ScriptedFleet) -> None:
    router, reached = await fleet.router(), asyncio.Event()

    async def hang() -> None:
        reached.set()
        await asyncio.Event().wait()

    for one in fleet.hosts.values():
        one.before = hang
    acquiring = asyncio.ensure_future(router.acquire(AcquireCall("chat", 60.0)))
    await reached.wait()
    assert intents(fleet)
    acquiring.cancel()
    await asyncio.gather(acquiring, return_exceptions=True)
    await until(lambda: not intents(fleet), "the intent is dropped")


# -- the store is away -----------------------------------------------------------------------------------------------


async def test_without_the_store_requests_are_placed_by_the_last_table_and_marked(fleet: ScriptedFleet) -> None:
    router = await fleet.router()
    router.store.cut_off()
    await until(lambda: router.table.interruption, "the watch is interrupted")

    lease = await router.acquire(AcquireCall("chat", 5.0))

    assert "link is cut" in lease.grant["degraded"]
    (call,) = [call for one in fleet.hosts.values() for call in one.acquired]
    assert (call.basis, call.revision) == (Basis.NONE, None)


async def test_claim_whose_answer_is_lost_does_not_fail_the_request(fleet: ScriptedFleet) -> None:
    router = await fleet.router()
    router.store.link.is_cut = True  # without an interruption of the watch, as in the first moment of an outage

    lease = await router.acquire(AcquireCall("chat", 5.0))

    assert lease.grant["degraded"]


async def test_static_peers_have_no_intents_and_are_not_degraded(fleet: ScriptedFleet) -> None:
    router = await fleet.router(are_possible=False)
    lease = await router.acquire(AcquireCall("chat", 5.0))
    assert "degraded" not in lease.grant
    assert not intents(fleet)


async def test_intent_that_is_gone_already_is_not_learned_again(fleet: ScriptedFleet) -> None:
    router = await fleet.router()
    store = fleet.memory.store()
    value = encode_intent(Intent(machine_id(1), "other", "n"))
    claim = await store.claim(fleet.keys.intent("chat"), value, 15.0)
    await store.release(fleet.keys.intent("chat"), value)
    await until(lambda: router.table.revision == fleet.memory.revision, "the watch has seen both")
    router.table.learn(Entry(fleet.keys.intent("chat"), value, claim.revision))
    assert not router.table.view().intents


# -- other requests --------------------------------------------------------------------------------------------------


async def test_unknown_consumer_is_refused_at_once(fleet: ScriptedFleet) -> None:
    router = await fleet.router()
    with pytest.raises(NoSuchConsumer, match="no host of the fleet has a consumer 'video'"):
        await router.acquire(AcquireCall("video", 600.0))


async def test_drained_hosts_are_named_when_no_other_is_left(resident: ScriptedFleet) -> None:
    router = await resident.router()
    for number in (1, 2, 3):
        await router.store.put(resident.keys.drain(machine_id(number)), "drained", lasting=True)
    await until(lambda: len(router.table.drained) == 3, "the drains are known")
    with pytest.raises(NoHost, match="gpu2 is drained"):
        await router.acquire(AcquireCall("chat", 0.05))


async def test_hosts_with_too_old_a_protocol_are_named_and_get_no_requests(
    resident: ScriptedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpumand.fleet.rows.OLDEST_API", 2)
    router = await resident.router()
    words = "gpu2 runs version 1 of the fleet's protocol, and at least 2 is needed: upgrade gpumand-fleet there"
    with pytest.raises(NoHost, match=words):
        await router.acquire(AcquireCall("chat", 0.05))
    with pytest.raises(NoHost, match=words):
        await router.acquire(AcquireCall("chat", 0.05, on="gpu2"))
    with pytest.raises(NoHost, match=words):
        await router.load(LoadCall("chat", 0.05, on="gpu2"))
    assert not any(one.acquired or one.planned or one.loaded for one in resident.hosts.values())


async def test_request_waits_for_a_host_that_comes_back(resident: ScriptedFleet) -> None:
    router = await resident.router()
    keys = [resident.keys.drain(machine_id(number)) for number in (1, 2, 3)]
    for key in keys:
        await router.store.put(key, "drained", lasting=True)
    await until(lambda: len(router.table.drained) == 3, "the drains are known")
    acquiring = asyncio.ensure_future(router.acquire(AcquireCall("chat", 30.0)))
    await asyncio.sleep(0)
    await router.store.remove(keys[1])
    assert (await acquiring).grant["host"] == "gpu2"


async def test_named_host_is_used_whatever_placement_thinks(resident: ScriptedFleet) -> None:
    router = await resident.router()
    lease = await router.acquire(AcquireCall("chat", 5.0, on="gpu1"))
    assert lease.grant["host"] == "gpu1"
    assert resident.hosts["gpu1"].acquired[0].on == ""
    with pytest.raises(NoSuchHost, match="has no host 'gpu9'; it has gpu1, gpu2, gpu3"):
        await router.acquire(AcquireCall("chat", 5.0, on="gpu9"))


async def test_plan_shows_all_hosts_that_could_serve_the_request(fleet: ScriptedFleet) -> None:
    router = await fleet.router()
    fleet.hosts["gpu1"].quote = {"verdict": "grant", "expected_usec": 1_000_000, "victims_usec": 0}
    fleet.hosts["gpu2"].quote = Busy("not now")
    for name in ("gpu3",):
        fleet.hosts[name].quote = {"verdict": "grant", "expected_usec": 9_000_000, "victims_usec": 0}

    plan = await router.plan(PlanCall("chat"))

    assert plan["host"] == "gpu1"
    assert [one["host"] for one in plan["hosts"]] == ["gpu1", "gpu3", "gpu2"]
    assert plan["hosts"][0]["plan"]["expected_usec"] == 1_000_000
    assert plan["hosts"][2]["message"] == "not now"


async def test_load_goes_to_the_named_host_or_to_the_best(resident: ScriptedFleet) -> None:
    router = await resident.router()
    assert (await router.load(LoadCall("chat", on="gpu3")))["host"] == "gpu3"
    assert (await router.load(LoadCall("chat")))["host"] == "gpu2"


async def test_drain_needs_a_host(fleet: ScriptedFleet) -> None:
    router = await fleet.router()
    assert await router.drain(DrainCall(True, "gpu2")) == {"drain": True}
    with pytest.raises(InvalidArgs, match="on is missing"):
        await router.drain(DrainCall())


async def test_request_that_follows_an_extended_intent_shares_the_load(
    fleet: ScriptedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpumand.fleet.intents.EXTEND_SEC", 0.05)
    first, second, agent = [await fleet.router() for _ in range(3)]
    chosen = first._placer.candidates("chat", ())[0]
    kept = await first._intents.permit(chosen)
    assert kept.revision is not None
    claimed = kept.revision

    def is_extended() -> bool:
        found = fleet.memory.listing(fleet.keys.intents).entries
        return bool(found) and found[0].revision > claimed

    await until(is_extended, "the intent was extended")
    followed = await second._intents.permit(chosen)
    guard = IntentGuard(agent.table, chosen.row.machine_id, lambda: chosen.row)
    await until(lambda: agent.table.revision >= fleet.memory.revision, "the agent has read the extension")
    await guard.check(AcquireCall("chat", 5.0, basis=followed.basis, revision=followed.revision))


async def test_load_is_tried_on_the_next_host_when_one_is_lost(fleet: ScriptedFleet) -> None:
    router = await fleet.router()
    first = router._placer.candidates("chat", ())[0].row
    fleet.hosts[first.name].load_error = lost(first.name)
    loaded = await router.load(LoadCall("chat"))
    assert loaded["host"] != first.name
    assert first.machine_id in router.table.losses()


async def test_load_on_a_named_host_that_is_lost_is_refused_and_noted(fleet: ScriptedFleet) -> None:
    router = await fleet.router()
    fleet.hosts["gpu2"].load_error = lost("gpu2")
    with pytest.raises(HostLost):
        await router.load(LoadCall("chat", on="gpu2"))
    assert machine_id(2) in router.table.losses()


@pytest.mark.parametrize("kind", ["acquire", "load"])
async def test_intent_of_a_served_request_ends_even_if_no_row_shows_the_load(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("gpumand.fleet.router.PLACED_SEC", 0.05)
    made = ScriptedFleet(host(1, chat=consumer(COLD)))
    made.memory.ttl_sec = 600.0  # an intent also ends with the row of its host
    await made.start()
    router = await made.router()
    await (router.acquire(AcquireCall("chat", 5.0)) if kind == "acquire" else router.load(LoadCall("chat")))
    await until(lambda: not intents(made), "the intent is removed")
    await made.close()


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
