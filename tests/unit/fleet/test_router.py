"""Routers: which host gets a request, and what is claimed for it."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from gpumand.domain.errors import (
    Busy,
    InvalidArgs,
    LoadFailed,
    NoSuchConsumer,
)
from gpumand.fleet.calls import AcquireCall, Basis, DrainCall, LoadCall, PlanCall
from gpumand.fleet.errors import NoHost, NoSuchHost, NotResident, StaleToken
from gpumand.fleet.intents import IntentGuard
from tests.unit.fleet.fleet_rows import COLD, LOADING, RESIDENT, consumer, host, machine_id
from tests.unit.fleet.router_setup import intents
from tests.unit.fleet.scripted_fleet import ScriptedFleet, lost
from tests.waiting import until

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


async def test_load_is_claimed_before_the_host_is_asked_and_kept_until_its_row_shows_it(cold: ScriptedFleet) -> None:
    router = await cold.router()
    seen: list[list[str]] = []
    for one in cold.hosts.values():
        one.before = lambda: _note(seen, intents(cold))

    lease = await router.acquire(AcquireCall("chat", 5.0))

    assert seen == [[cold.keys.intent("chat")]]
    assert intents(cold) == [cold.keys.intent("chat")], "the row does not show it yet"
    await cold.publish(lease.grant["host"], chat=LOADING)
    await until(lambda: not intents(cold), "the intent is released")


async def _note(seen: list[list[str]], found: list[str]) -> None:
    seen.append(found)


async def test_two_routers_send_their_requests_for_a_load_to_the_same_host(cold: ScriptedFleet) -> None:
    first, second = await cold.router(), await cold.router()
    # Their tables differ: the second one believes that another host is the best.
    cold.hosts["gpu1"].quote = {"verdict": "grant", "expected_usec": 1_000_000}
    leases = await asyncio.gather(*(one.acquire(AcquireCall("chat", 5.0)) for one in (first, second, first, second)))

    assert len({lease.grant["host"] for lease in leases}) == 1
    calls = [call for one in cold.hosts.values() for call in one.acquired]
    assert {call.basis for call in calls} == {Basis.INTENT}
    assert len({call.revision for call in calls}) == 1


async def test_failed_load_drops_its_intent_and_goes_to_the_next_host(cold: ScriptedFleet) -> None:
    router = await cold.router()
    for one in cold.hosts.values():
        one.answers = [LoadFailed(f"chat did not start on {one.name}")]
    tried: list[str] = []
    for one in cold.hosts.values():
        one.before = partial(_name, tried, one.name)
    cold.hosts["gpu3"].answers = []

    lease = await router.acquire(AcquireCall("chat", 5.0))

    assert lease.grant["host"] == "gpu3"
    assert len(tried) == len(set(tried)) <= 3
    kept = [entry.value for entry in cold.memory.listing(cold.keys.intents).entries]
    assert all(machine_id(3) in value for value in kept)


async def _name(tried: list[str], name: str) -> None:
    tried.append(name)


async def test_hosts_are_asked_what_a_load_would_cost_there(cold: ScriptedFleet) -> None:
    router = await cold.router()
    for one in cold.hosts.values():
        one.quote = {"verdict": "grant", "expected_usec": 10_000_000, "victims_usec": 60_000_000}
    await router.acquire(AcquireCall("chat", 5.0))
    asked = [name for name, one in cold.hosts.items() if one.planned]
    assert len(asked) == 2
    chosen = [name for name, one in cold.hosts.items() if one.acquired]
    assert not set(chosen) & set(asked), "the third host has no victims that are known, so it is estimated as cheaper"


async def test_host_that_does_not_answer_the_question_is_lost(cold: ScriptedFleet) -> None:
    router = await cold.router()
    for one in cold.hosts.values():
        one.quote = lost(one.name)
    await router.acquire(AcquireCall("chat", 5.0))
    assert len(router.table.losses()) >= 1


# -- other requests --------------------------------------------------------------------------------------------------


async def test_unknown_consumer_is_refused_at_once(cold: ScriptedFleet) -> None:
    router = await cold.router()
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


async def test_plan_shows_all_hosts_that_could_serve_the_request(cold: ScriptedFleet) -> None:
    router = await cold.router()
    cold.hosts["gpu1"].quote = {"verdict": "grant", "expected_usec": 1_000_000, "victims_usec": 0}
    cold.hosts["gpu2"].quote = Busy("not now")
    for name in ("gpu3",):
        cold.hosts[name].quote = {"verdict": "grant", "expected_usec": 9_000_000, "victims_usec": 0}

    plan = await router.plan(PlanCall("chat"))

    assert plan["host"] == "gpu1"
    assert [one["host"] for one in plan["hosts"]] == ["gpu1", "gpu3", "gpu2"]
    assert plan["hosts"][0]["plan"]["expected_usec"] == 1_000_000
    assert plan["hosts"][2]["message"] == "not now"


async def test_load_goes_to_the_named_host_or_to_the_best(resident: ScriptedFleet) -> None:
    router = await resident.router()
    assert (await router.load(LoadCall("chat", on="gpu3")))["host"] == "gpu3"
    assert (await router.load(LoadCall("chat")))["host"] == "gpu2"


async def test_drain_needs_a_host(cold: ScriptedFleet) -> None:
    router = await cold.router()
    assert await router.drain(DrainCall(True, "gpu2")) == {"drain": True}
    with pytest.raises(InvalidArgs, match="on is missing"):
        await router.drain(DrainCall())


async def test_request_that_follows_an_extended_intent_shares_the_load(
    cold: ScriptedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpumand.fleet.intents.EXTEND_SEC", 0.05)
    first, second, agent = [await cold.router() for _ in range(3)]
    chosen = first._placer.candidates("chat", ())[0]
    kept = await first._intents.permit(chosen)
    assert kept.revision is not None
    claimed = kept.revision

    def is_extended() -> bool:
        found = cold.memory.listing(cold.keys.intents).entries
        return bool(found) and found[0].revision > claimed

    await until(is_extended, "the intent was extended")
    followed = await second._intents.permit(chosen)
    guard = IntentGuard(agent.table, chosen.row.machine_id, lambda: chosen.row)
    await until(lambda: agent.table.revision >= cold.memory.revision, "the agent has read the extension")
    await guard.check(AcquireCall("chat", 5.0, basis=followed.basis, revision=followed.revision))


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
