"""Residency follows evidence: remainders of failed loads, orphaned processes, unloads that are still to come."""

from __future__ import annotations

import pytest

from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, HealthRoute, UnitActivity
from gpumand.domain.errors import ConsumerBackingOff, EvictionFailed, GpumandError, InsufficientVram, LoadFailed
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import at_work, by_unit, kill_consumer, lazy, residency, routed

BOTH = (EvictionMethod.HTTP, EvictionMethod.UNIT_STOP)


async def refusal(world: FakeWorld, name: str, timeout_sec: float = 20.0) -> GpumandError:
    """The error of an Acquire."""
    with pytest.raises(GpumandError) as caught:
        await world.arbiter.acquire(client(9), name, AcquireOptions(timeout_sec=timeout_sec))
    return caught.value


# -- remainders of failed loads ----------------------------------------------------------------------------------------


async def failed_with_remainder(*others: ConsumerSpec, **more: object) -> FakeWorld:
    """A world in which a load has failed and left 2000 of 9000 MiB behind."""
    defaults: dict[str, object] = {"unload": None, "health": HealthRoute("/health")}
    world = await at_work(routed("tabby", 9000, **(defaults | more)), *others)
    world.routes.consumer("tabby").says_loaded = None
    server = world.routes.consumer("tabby")
    server.mib, server.load_breaks = 2000, "CUDA error: out of memory"
    if more.get("unit"):
        world.units.become("tabby.service", UnitActivity.ACTIVE)
        world.units.units["tabby.service"].stopped = lambda: world.routes.die("tabby")
    assert isinstance(await refusal(world, "tabby"), LoadFailed)
    assert server.held_mib == 2000
    return world


async def test_remainder_of_a_failed_load_does_not_count_as_loaded() -> None:
    world = await failed_with_remainder()
    for _ in range(8):
        await world.clock.sleep(5.0)
        assert residency(world, "tabby") == "failed"
        assert await refusal(world, "tabby")
    assert world.arbiter.status().leases == ()


@pytest.mark.parametrize(("held_mib", "expected"), [(7900, "failed"), (8100, "resident")])
async def test_nine_tenths_of_its_footprint_are_a_loaded_model(held_mib: int, expected: str) -> None:
    world = await failed_with_remainder()
    world.vram.hold(world.routes.consumer("tabby").pid, held_mib, consumer="tabby")
    await world.clock.sleep(15.0)
    assert residency(world, "tabby") == expected


async def test_health_check_that_says_loaded_ends_the_failure() -> None:
    world = await failed_with_remainder(health=HealthRoute("/health", loaded="/loaded"))
    world.routes.consumer("tabby").says_loaded = True
    await world.clock.sleep(15.0)
    assert residency(world, "tabby") == "resident"


async def test_start_of_its_unit_ends_the_failure() -> None:
    world = await at_work(by_unit("llm", 9000, url="http://127.0.0.1:1", health=HealthRoute("/health")))
    world.routes.consumer("llm").failed = "exit code 1"
    world.units.units["llm.service"].stop_failure = None
    assert isinstance(await refusal(world, "llm"), LoadFailed)
    assert residency(world, "llm") == "failed"
    world.routes.consumer("llm").failed = ""
    world.units.become("llm.service", UnitActivity.ACTIVE)
    world.routes.place("llm", 9000)
    await world.clock.sleep(15.0)
    assert residency(world, "llm") == "resident"


async def test_remainder_counts_as_used_and_is_evicted_to_make_room() -> None:
    world = await failed_with_remainder(routed("big", 23500), unit="tabby.service", evict=(EvictionMethod.UNIT_STOP,))
    await world.clock.sleep(5.0)

    grant = await world.arbiter.acquire(client(2), "big", AcquireOptions())

    assert grant.evicted == ("tabby",)


# -- orphans -----------------------------------------------------------------------------------------------------------


def leave_process(world: FakeWorld, name: str, mib: int) -> None:
    """Let the process of a unit hold memory that a stop of the unit does not free (KillMode=process)."""
    unit = world.units.units[f"{name}.service"]
    pids = iter(range(100, 200))
    unit.started = lambda: world.vram.hold(next(pids), mib, consumer=name, unit=f"{name}.service", name="sh")


async def test_nothing_is_started_beside_a_process_that_its_unit_has_left_behind() -> None:
    world = await at_work(by_unit("llm", 15000))
    leave_process(world, "llm", 15000)
    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions())
    await world.arbiter.release(grant.lease.id)
    await world.clock.sleep(1.0)
    await world.units.stop("llm.service", 10.0)
    starts = world.units.calls.count(("start", "llm.service"))

    for _ in range(3):
        error = await refusal(world, "llm")
        assert isinstance(error, InsufficientVram | LoadFailed | ConsumerBackingOff)
        for fact in ("llm.service", "pid 100", "KillMode"):
            assert fact in error.message
        await world.clock.sleep(5.0)

    assert isinstance(error, InsufficientVram)
    assert world.units.calls.count(("start", "llm.service")) == starts


async def test_new_run_is_started_where_both_fit_and_only_its_own_memory_counts() -> None:
    world = await at_work(by_unit("llm", 9000))
    leave_process(world, "llm", 9000)
    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions())
    await world.arbiter.release(grant.lease.id)
    await world.clock.sleep(1.0)
    await world.units.stop("llm.service", 10.0)

    await world.arbiter.acquire(client(), "llm", AcquireOptions())
    await world.clock.sleep(10.0)

    assert world.arbiter.consumer_status("llm").used_mib == 9000
    [foreign] = [one for one in world.arbiter.state.device(0).processes if not one.consumer]
    assert (foreign.pid, foreign.used_mib) == (100, 9000)


async def test_stopped_unit_without_processes_is_started_again_without_delay() -> None:
    world = await at_work(by_unit("llm", 15000))
    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions())
    await world.arbiter.release(grant.lease.id)
    await world.clock.sleep(1.0)
    await world.units.stop("llm.service", 10.0)
    began = world.clock.monotonic()

    await world.arbiter.acquire(client(), "llm", AcquireOptions())

    assert world.clock.monotonic() - began < 0.5


async def test_eviction_that_leaves_a_process_behind_fails_and_names_it() -> None:
    world = await at_work(by_unit("llm", 15000), routed("voice", 12000))
    leave_process(world, "llm", 15000)
    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions())
    await world.arbiter.release(grant.lease.id)

    with pytest.raises(EvictionFailed, match=r"llm\.service was stopped, but it has left sh \(pid 100, 15000 MiB\)"):
        await world.arbiter.evict("llm", False, 20.0)

    await world.clock.sleep(5.0)
    assert residency(world, "llm") == "unloaded"
    assert "pid 100" in (await refusal(world, "voice")).message
    assert world.arbiter.status().leases == ()


# -- unloads that are still to come ------------------------------------------------------------------------------------


async def test_consumer_whose_unload_timed_out_is_probed_before_it_is_granted() -> None:
    world = await at_work(routed("liar", 15000), routed("voice", 12000))
    world.routes.place("liar", 15000)
    await world.clock.sleep(6.0)
    world.routes.consumer("liar").unload_error = "still working"
    assert await refusal(world, "voice")
    world.routes.consumer("liar").unload_error = ""
    await world.clock.sleep(0.1)
    assert residency(world, "liar") == "resident"
    kill_consumer(world, "liar")  # the unload is carried out after all, and no probe has noticed it yet
    world.routes.consumer("liar").running = True

    grant = await world.arbiter.acquire(client(), "liar", AcquireOptions(timeout_sec=60))

    assert grant.loaded
    assert world.routes.called("load") == ["liar"]


async def test_consumer_that_is_still_loaded_after_a_failed_unload_is_granted_after_one_probe() -> None:
    world = await at_work(routed("liar", 15000), routed("voice", 12000))
    world.routes.place("liar", 15000)
    await world.clock.sleep(6.0)
    world.routes.consumer("liar").unload_error = "still working"
    assert await refusal(world, "voice")
    probes = len(world.routes.called("probe_health"))

    grant = await world.arbiter.acquire(client(), "liar", AcquireOptions())

    assert grant.waited_usec / 1e6 < 1.0
    assert world.routes.called("load") == []
    assert len(world.routes.called("probe_health")) > probes


async def test_status_tells_a_running_server_without_its_model_from_a_stopped_one() -> None:
    world = FakeWorld([lazy("comfyui", 8000, unit="comfyui.service", health=None), routed("tts", 1000)])
    await world.start()
    await world.arbiter.watch_units()
    states = []
    for activity in (UnitActivity.ACTIVE, UnitActivity.INACTIVE):
        world.units.become("comfyui.service", activity)
        await world.housekeeping.refresh_all()
        one = world.arbiter.consumer_status("comfyui")
        states.append((one.residency, one.unit_state))

    assert states == [("unloaded", "active"), ("unloaded", "inactive")]
    assert world.arbiter.consumer_status("tts").unit_state == "", "it has no unit"
