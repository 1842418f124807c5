"""Measurements that the arbiter makes during normal operation."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from gpumand.arbiter.learning import measured_peaks
from gpumand.domain.assumed_times import Start
from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, Route
from gpumand.domain.request import AcquireOptions
from gpumand.domain.residency_states import Residency
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


async def observe_for(world: FakeWorld, seconds: float = 2.0) -> None:
    """Take readings and learn from them, as housekeeping does in each round."""
    await world.clock.sleep(seconds)
    await world.arbiter.state.sample()
    world.arbiter.reconciler.reconcile_all()
    world.arbiter.learning.observe_reading()
    world.arbiter.learning.save()


async def load_consumer(world: FakeWorld, mib: int) -> str:
    world.routes.consumer("llm").mib = mib
    await world.start()
    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions())
    for _ in range(4):
        await observe_for(world)
    return grant.lease.id


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld([LLM])


async def test_footprint_of_a_consumer_at_rest_is_measured_and_saved(world: FakeWorld) -> None:
    await load_consumer(world, 4100)
    memory = world.arbiter.state.consumer("llm").memory
    assert (memory.steady_mib, memory.peak_mib, memory.stays) == (4100, 4100, 1)
    assert world.archive.learned["llm"]["memory"]["peaks_mib"] == [4100]


async def test_peak_within_one_stay_is_learned_as_one_stay(world: FakeWorld) -> None:
    await load_consumer(world, 4100)
    pid = world.routes.consumer("llm").pid
    world.vram.hold(pid, 4900, consumer="llm")
    await observe_for(world)
    world.vram.hold(pid, 4100, consumer="llm")
    for _ in range(5):
        await observe_for(world)
    memory = world.arbiter.state.consumer("llm").memory
    assert (memory.steady_mib, memory.peak_mib, memory.stays) == (4100, 4900, 1)


async def test_residual_memory_is_measured_a_while_after_an_unload(world: FakeWorld) -> None:
    lease = await load_consumer(world, 4100)
    await world.arbiter.release(lease)
    world.routes.consumer("llm").residual_mib = 150
    outcome = await world.arbiter.evict("llm", force=False, timeout_sec=5)
    for _ in range(3):
        await observe_for(world)
    assert outcome.method == "http"
    assert world.arbiter.state.consumer("llm").memory.residual_mib == 150


async def test_durations_of_loads_unloads_leases_and_idle_periods_are_learned(world: FakeWorld) -> None:
    lease = await load_consumer(world, 4100)
    await world.arbiter.release(lease)
    await world.clock.sleep(60)
    again = await world.arbiter.acquire(client(), "llm", AcquireOptions())
    await world.arbiter.release(again.lease.id)
    await world.arbiter.evict("llm", force=False, timeout_sec=5)
    times = world.arbiter.state.consumer("llm").times
    assert times.loads[Start.COLD].count == 1, "its unit was started for it"
    assert times.unloads[EvictionMethod.HTTP].count == 1
    assert times.hold.count == 2
    assert sum(times.idle.counts) == 1


async def test_several_requests_after_one_idle_period_count_once(world: FakeWorld) -> None:
    lease = await load_consumer(world, 4100)
    await world.arbiter.release(lease)
    await world.clock.sleep(60)
    for _ in range(3):
        world.arbiter.learning.uses.note_request("llm")
    assert sum(world.arbiter.state.consumer("llm").times.idle.counts) == 1


@pytest.mark.parametrize("step_sec", [-36_000.0, 36_000.0])
async def test_changing_the_wall_clock_does_not_change_measurements(world: FakeWorld, step_sec: float) -> None:
    lease = await load_consumer(world, 4100)
    world.clock.step_realtime(step_sec)
    await world.arbiter.release(lease)
    world.clock.step_realtime(step_sec)
    await world.clock.sleep(60)
    await world.arbiter.acquire(client(), "llm", AcquireOptions())

    times = world.arbiter.state.consumer("llm").times
    assert times.hold.mean_sec == pytest.approx(8, abs=1)
    assert times.idle.counts[bucket_of(60)] == 1


async def test_suspended_time_counts_as_idle_and_not_as_use(world: FakeWorld) -> None:
    lease = await load_consumer(world, 4100)
    world.clock.suspend(36_000)
    await world.arbiter.release(lease)
    world.clock.suspend(3600)
    await world.arbiter.acquire(client(), "llm", AcquireOptions())

    times = world.arbiter.state.consumer("llm").times
    assert times.hold.mean_sec == pytest.approx(8, abs=1)
    assert times.idle.counts[bucket_of(3600)] == 1


async def test_load_into_a_running_unit_is_learned_separately(world: FakeWorld) -> None:
    lease = await load_consumer(world, 4100)
    await world.arbiter.release(lease)
    await world.arbiter.evict("llm", force=False, timeout_sec=5)
    await world.arbiter.load("llm", "", 60)
    assert {start: one.count for start, one in world.arbiter.state.consumer("llm").times.loads.items()} == {
        Start.COLD: 1,
        Start.PARKED: 1,
    }


async def test_measurements_survive_a_restart(world: FakeWorld) -> None:
    await load_consumer(world, 4100)
    again = FakeWorld([LLM], store=world.store, clock=world.clock, archive=world.archive)
    await again.start()
    before, after = world.arbiter.state.consumer("llm"), again.arbiter.state.consumer("llm")
    assert (after.memory, after.times) == (before.memory, before.times)


async def test_measurements_are_discarded_when_a_name_means_another_program(world: FakeWorld) -> None:
    await load_consumer(world, 4100)
    other = replace(LLM, load=Route("/load", json={"model": "another"}))
    again = FakeWorld([other], clock=world.clock, archive=world.archive)
    await again.start()
    assert again.arbiter.state.consumer("llm").memory.stays == 0
    world.settings = replace(world.settings, consumers={"llm": other})
    await world.arbiter.reload()
    assert world.arbiter.state.consumer("llm").memory.stays == 0


async def test_unreadable_record_is_logged_and_measured_again(
    world: FakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    await load_consumer(world, 4100)
    world.archive.learned["llm"]["memory"] = {"stays": "many"}
    again = FakeWorld([LLM], clock=world.clock, archive=world.archive)
    with caplog.at_level(logging.WARNING):
        await again.start()
    assert again.arbiter.state.consumer("llm").memory.stays == 0
    assert "measured again" in caplog.text


@pytest.mark.parametrize(("held", "word"), [(4900, "run out of memory"), (3000, "does not need")])
async def test_wrong_declared_footprint_is_warned_about_once(
    world: FakeWorld, caplog: pytest.LogCaptureFixture, held: int, word: str
) -> None:
    with caplog.at_level(logging.WARNING):
        await load_consumer(world, held)
        for _ in range(5):
            await observe_for(world)
    assert [word in record.message for record in caplog.records if "vram_resident_mib" in record.message] == [True]


async def test_roughly_correct_declared_footprint_is_not_warned_about(
    world: FakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        await load_consumer(world, 4300)
    assert "vram_resident_mib" not in caplog.text


async def test_automatic_footprint_is_the_highest_measured_peak() -> None:
    world = FakeWorld([replace(LLM, vram_auto=True, vram_resident_mib=9000)])
    assert world.arbiter.state.consumer("llm").footprint_mib == 9000
    await load_consumer(world, 4100)
    assert world.arbiter.state.consumer("llm").footprint_mib == 4100


async def test_cuda_context_is_not_learned_as_the_footprint_of_a_lazy_consumer() -> None:
    world = FakeWorld([lazy("comfy", 12000, vram_auto=True)])
    await world.start()
    world.vram.hold(777, 500, consumer="comfy")
    grant = await world.arbiter.acquire(client(), "comfy", AcquireOptions())
    for _ in range(10):
        await observe_for(world)
    assert reserved(world) == {"comfy": 11500}, "its first request may still load 12 GB"
    await world.arbiter.release(grant.lease.id)
    for _ in range(20):
        await observe_for(world)
    assert world.arbiter.state.consumer("comfy").memory.stays == 0


async def test_pause_in_a_load_without_a_reported_end_keeps_the_reservation() -> None:
    world = FakeWorld([replace(by_unit("slow", 12000), vram_auto=True)])
    world.units.units["slow.service"].started = lambda: world.vram.hold(777, 4000, consumer="slow")
    await world.start()
    grant = await world.arbiter.acquire(client(), "slow", AcquireOptions())
    for _ in range(10):
        await observe_for(world)
    assert reserved(world) == {"slow": 8000}
    world.vram.hold(777, 9000, consumer="slow")
    for _ in range(10):
        await observe_for(world)
    await world.arbiter.release(grant.lease.id)
    await observe_for(world)
    assert world.arbiter.state.consumer("slow").footprint_mib == 9000, "the new value is learned in any case"


async def test_stay_that_ends_with_its_lease_is_learned() -> None:
    world = FakeWorld([replace(by_unit("quick", 12000), vram_auto=True)])
    world.units.units["quick.service"].started = lambda: world.vram.hold(777, 9000, consumer="quick")
    world.units.units["quick.service"].stopped = lambda: world.vram.release(777)
    await world.start()
    grant = await world.arbiter.acquire(client(), "quick", AcquireOptions())
    for _ in range(10):
        await observe_for(world)
    await world.arbiter.release(grant.lease.id)
    await world.arbiter.evict("quick", force=False, timeout_sec=5)
    await observe_for(world)
    assert world.arbiter.state.consumer("quick").footprint_mib == 9000


async def test_measured_peaks_ignore_records_of_another_program(world: FakeWorld) -> None:
    await load_consumer(world, 4100)
    peak_mib = measured_peaks(world.archive.learned)
    assert peak_mib(LLM) == 4100
    assert peak_mib(replace(LLM, unit="other.service")) is None
    assert peak_mib(replace(LLM, name="other")) is None
    assert measured_peaks({"llm": {}})(LLM) is None


async def test_consumer_without_attributed_memory_is_not_measured(world: FakeWorld) -> None:
    world.vram.attributable.clear()
    await world.start()
    await observe_for(world)
    state = world.arbiter.state.consumer("llm")
    assert (state.memory.stays, state.residency) == (0, Residency.UNLOADED)
