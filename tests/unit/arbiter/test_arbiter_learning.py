"""What the arbiter learns of its consumers while it works."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from gpumand.arbiter.learning import measured_peaks
from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, Residency, Route
from gpumand.domain.learning import Start
from gpumand.domain.request import AcquireOptions
from gpumand.domain.reuse_prediction import bucket_of
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import by_unit, lazy, reserved

LLM = ConsumerSpec(
    "llm",
    4000,
    unit="llm.service",
    url="http://127.0.0.1:1",
    load=Route("/load"),
    unload=Route("/unload"),
    evict=(EvictionMethod.HTTP, EvictionMethod.UNIT_STOP),
)


async def look(world: FakeWorld, seconds: float = 2.0) -> None:
    """What upkeep does at each of its turns."""
    await world.clock.sleep(seconds)
    await world.arbiter.arbiter_state.sample()
    world.arbiter.facts.conclude_all()
    world.arbiter.measuring.look()
    world.arbiter.measuring.keep()


async def loaded(world: FakeWorld, mib: int) -> str:
    world.routes.consumer("llm").mib = mib
    await world.start()
    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions())
    for _ in range(4):
        await look(world)
    return grant.lease.id


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld([LLM])


async def test_resting_consumer_is_measured_and_that_is_kept(world: FakeWorld) -> None:
    await loaded(world, 4100)
    memory = world.arbiter.arbiter_state.state("llm").memory
    assert (memory.steady_mib, memory.peak_mib, memory.stays) == (4100, 4100, 1)
    assert world.archive.learned["llm"]["memory"]["peaks_mib"] == [4100]


async def test_peak_within_a_stay_is_learned_and_counts_as_one_stay(world: FakeWorld) -> None:
    await loaded(world, 4100)
    pid = world.routes.consumer("llm").pid
    world.vram.hold(pid, 4900, consumer="llm")
    await look(world)
    world.vram.hold(pid, 4100, consumer="llm")
    for _ in range(5):
        await look(world)
    memory = world.arbiter.arbiter_state.state("llm").memory
    assert (memory.steady_mib, memory.peak_mib, memory.stays) == (4100, 4900, 1)


async def test_residual_is_what_stays_a_while_after_an_unload(world: FakeWorld) -> None:
    lease = await loaded(world, 4100)
    await world.arbiter.release(lease)
    world.routes.consumer("llm").residual_mib = 150
    outcome = await world.arbiter.evict("llm", force=False, timeout_sec=5)
    for _ in range(3):
        await look(world)
    assert outcome.method == "http"
    assert world.arbiter.arbiter_state.state("llm").memory.residual_mib == 150


async def test_times_of_loads_unloads_leases_and_idleness_are_learned(world: FakeWorld) -> None:
    lease = await loaded(world, 4100)
    await world.arbiter.release(lease)
    await world.clock.sleep(60)
    again = await world.arbiter.acquire(client(), "llm", AcquireOptions())
    await world.arbiter.release(again.lease.id)
    await world.arbiter.evict("llm", force=False, timeout_sec=5)
    times = world.arbiter.arbiter_state.state("llm").times
    assert times.loads[Start.COLD].count == 1, "its unit was started for it"
    assert times.unloads[EvictionMethod.HTTP].count == 1
    assert times.hold.count == 2
    assert sum(times.idle.counts) == 1


async def test_many_requests_after_one_idle_time_are_one_observation(world: FakeWorld) -> None:
    lease = await loaded(world, 4100)
    await world.arbiter.release(lease)
    await world.clock.sleep(60)
    for _ in range(3):
        world.arbiter.measuring.wanted("llm")
    assert sum(world.arbiter.arbiter_state.state("llm").times.idle.counts) == 1


@pytest.mark.parametrize("step_sec", [-36_000.0, 36_000.0])
async def test_a_clock_that_is_set_changes_nothing_of_what_is_learned(world: FakeWorld, step_sec: float) -> None:
    lease = await loaded(world, 4100)
    world.clock.step_realtime(step_sec)
    await world.arbiter.release(lease)
    world.clock.step_realtime(step_sec)
    await world.clock.sleep(60)
    await world.arbiter.acquire(client(), "llm", AcquireOptions())

    times = world.arbiter.arbiter_state.state("llm").times
    assert times.hold.mean_sec == pytest.approx(8, abs=1)
    assert times.idle.counts[bucket_of(60)] == 1


async def test_a_suspended_host_does_not_work_but_idles(world: FakeWorld) -> None:
    lease = await loaded(world, 4100)
    world.clock.suspend(36_000)
    await world.arbiter.release(lease)
    world.clock.suspend(3600)
    await world.arbiter.acquire(client(), "llm", AcquireOptions())

    times = world.arbiter.arbiter_state.state("llm").times
    assert times.hold.mean_sec == pytest.approx(8, abs=1)
    assert times.idle.counts[bucket_of(3600)] == 1


async def test_load_beside_a_running_unit_is_learned_apart(world: FakeWorld) -> None:
    lease = await loaded(world, 4100)
    await world.arbiter.release(lease)
    await world.arbiter.evict("llm", force=False, timeout_sec=5)
    await world.arbiter.load("llm", "", 60)
    assert {start: one.count for start, one in world.arbiter.arbiter_state.state("llm").times.loads.items()} == {
        Start.COLD: 1,
        Start.PARKED: 1,
    }


async def test_what_was_learned_outlives_a_restart(world: FakeWorld) -> None:
    await loaded(world, 4100)
    again = FakeWorld([LLM], store=world.store, clock=world.clock, archive=world.archive)
    await again.start()
    before, after = world.arbiter.arbiter_state.state("llm"), again.arbiter.arbiter_state.state("llm")
    assert (after.memory, after.times) == (before.memory, before.times)


async def test_what_was_learned_of_another_thing_by_the_same_name_is_forgotten(world: FakeWorld) -> None:
    await loaded(world, 4100)
    other = replace(LLM, load=Route("/load", json={"model": "another"}))
    again = FakeWorld([other], clock=world.clock, archive=world.archive)
    await again.start()
    assert again.arbiter.arbiter_state.state("llm").memory.stays == 0
    world.settings = replace(world.settings, consumers={"llm": other})
    await world.arbiter.reload()
    assert world.arbiter.arbiter_state.state("llm").memory.stays == 0


async def test_record_that_cannot_be_read_is_told_and_learned_anew(
    world: FakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    await loaded(world, 4100)
    world.archive.learned["llm"]["memory"] = {"stays": "many"}
    again = FakeWorld([LLM], clock=world.clock, archive=world.archive)
    with caplog.at_level(logging.WARNING):
        await again.start()
    assert again.arbiter.arbiter_state.state("llm").memory.stays == 0
    assert "learned anew" in caplog.text


@pytest.mark.parametrize(("held", "word"), [(4900, "run out of memory"), (3000, "does not need")])
async def test_wrong_declaration_is_warned_about_once(
    world: FakeWorld, caplog: pytest.LogCaptureFixture, held: int, word: str
) -> None:
    with caplog.at_level(logging.WARNING):
        await loaded(world, held)
        for _ in range(5):
            await look(world)
    assert [word in record.message for record in caplog.records if "vram_resident_mib" in record.message] == [True]


async def test_declaration_that_is_about_right_is_not_warned_about(
    world: FakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        await loaded(world, 4300)
    assert "vram_resident_mib" not in caplog.text


async def test_footprint_left_to_us_is_the_highest_peak_once_there_is_one() -> None:
    world = FakeWorld([replace(LLM, vram_auto=True, vram_resident_mib=9000)])
    assert world.arbiter.arbiter_state.state("llm").footprint_mib == 9000
    await loaded(world, 4100)
    assert world.arbiter.arbiter_state.state("llm").footprint_mib == 4100


async def test_context_without_a_model_does_not_become_the_footprint_of_who_loads_with_its_first_request() -> None:
    world = FakeWorld([lazy("comfy", 12000, vram_auto=True)])
    await world.start()
    world.vram.hold(777, 500, consumer="comfy")
    grant = await world.arbiter.acquire(client(), "comfy", AcquireOptions())
    for _ in range(10):
        await look(world)
    assert reserved(world) == {"comfy": 11500}, "its first request may yet come, and load twelve"
    await world.arbiter.release(grant.lease.id)
    for _ in range(20):
        await look(world)
    assert world.arbiter.arbiter_state.state("comfy").memory.stays == 0


async def test_pause_in_a_load_that_nobody_tells_the_end_of_frees_nothing_for_others() -> None:
    world = FakeWorld([replace(by_unit("slow", 12000), vram_auto=True)])
    world.units.units["slow.service"].started = lambda: world.vram.hold(777, 4000, consumer="slow")
    await world.start()
    grant = await world.arbiter.acquire(client(), "slow", AcquireOptions())
    for _ in range(10):
        await look(world)
    assert reserved(world) == {"slow": 8000}
    world.vram.hold(777, 9000, consumer="slow")
    for _ in range(10):
        await look(world)
    await world.arbiter.release(grant.lease.id)
    await look(world)
    assert world.arbiter.arbiter_state.state("slow").footprint_mib == 9000, "what it is is learned all the same"


async def test_what_a_stay_has_shown_is_learned_where_it_ends_with_its_lease() -> None:
    world = FakeWorld([replace(by_unit("quick", 12000), vram_auto=True)])
    world.units.units["quick.service"].started = lambda: world.vram.hold(777, 9000, consumer="quick")
    world.units.units["quick.service"].stopped = lambda: world.vram.release(777)
    await world.start()
    grant = await world.arbiter.acquire(client(), "quick", AcquireOptions())
    for _ in range(10):
        await look(world)
    await world.arbiter.release(grant.lease.id)
    await world.arbiter.evict("quick", force=False, timeout_sec=5)
    await look(world)
    assert world.arbiter.arbiter_state.state("quick").footprint_mib == 9000


async def test_measured_peaks_are_those_of_the_same_thing_only(world: FakeWorld) -> None:
    await loaded(world, 4100)
    peak_mib = measured_peaks(world.archive.learned)
    assert peak_mib(LLM) == 4100
    assert peak_mib(replace(LLM, unit="other.service")) is None
    assert peak_mib(replace(LLM, name="other")) is None
    assert measured_peaks({"llm": {}})(LLM) is None


async def test_consumer_nobody_can_tell_apart_is_not_measured(world: FakeWorld) -> None:
    world.vram.attributable.clear()
    await world.start()
    await look(world)
    state = world.arbiter.arbiter_state.state("llm")
    assert (state.memory.stays, state.residency) == (0, Residency.UNLOADED)
