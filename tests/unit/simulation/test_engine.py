"""The simulation engine: exact waiting times, and limits of overtaking."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpumand.domain.consumer import Overlap, Policy, SchedulerSettings
from gpumand.simulation import generate
from gpumand.simulation.demand import OpenDemand, Use
from gpumand.simulation.engine import Engine
from gpumand.simulation.host import SimulatedHost, simulated_consumer
from gpumand.simulation.outcome import SimulationParameters, SimulationResult
from gpumand.simulation.report import ADAPTIVE_WITH_OVERLAP, POLICY_NAMES, metrics_of, settings_for

PLAIN = SchedulerSettings(cushion_mib=0, concurrent_leases=1, min_turn_sec=0.0)
TWO = SimulatedHost({"a": simulated_consumer("a", 8, 5, 1), "b": simulated_consumer("b", 8, 7, 2)}, (10,))


def simulate(
    uses: list[Use],
    host: SimulatedHost = TWO,
    settings: SchedulerSettings = PLAIN,
    parameters: SimulationParameters | None = None,
) -> SimulationResult:
    return Engine(host, settings, OpenDemand(uses), parameters).run()


def waits(outcome: SimulationResult) -> list[float]:
    return [one.wait_sec for one in outcome.served]


def test_loads_evictions_and_resident_grants_take_their_durations() -> None:
    outcome = simulate([Use(0, "a", 10), Use(2, "a", 10), Use(3, "b", 10), Use(100, "b", 1)])

    assert waits(outcome) == pytest.approx([5, 13, 25 - 3 + 1 + 7, 0])
    assert (outcome.evictions, outcome.loads, outcome.load_seconds) == (1, 2, 12)


def test_uses_of_consumers_that_never_fit_or_are_unknown_are_refused() -> None:
    host = SimulatedHost({"big": simulated_consumer("big", 100, 1, 1)}, (10,))

    metrics = metrics_of(simulate([Use(0, "big", 1), Use(1, "unknown", 1)], host))

    assert (metrics.requests, metrics.refused) == (0, 2)


def test_coexisting_consumers_both_stay_resident() -> None:
    host = SimulatedHost(
        {"a": simulated_consumer("a", 4, 5, 1, coexists=["b"]), "b": simulated_consumer("b", 4, 7, 2, coexists=["a"])},
        (10,),
    )

    outcome = simulate([Use(0, "a", 1), Use(20, "b", 1), Use(40, "a", 1), Use(60, "b", 1)], host)

    assert waits(outcome) == pytest.approx([5, 7, 0, 0])


def test_two_devices_hold_one_consumer_each() -> None:
    outcome = simulate(
        [Use(0, "a", 10), Use(0, "b", 10), Use(50, "a", 1), Use(50, "b", 1)], replace(TWO, total_mib=(10, 10))
    )

    assert waits(outcome) == pytest.approx([5, 7, 0, 0])


def test_parked_consumer_wakes_faster_than_it_loads() -> None:
    host = SimulatedHost(
        {"a": simulated_consumer("a", 8, 30, 1, wake_sec=2), "b": simulated_consumer("b", 8, 7, 2)}, (10,)
    )

    outcome = simulate([Use(0, "a", 1), Use(100, "b", 1), Use(200, "a", 1)], host)

    assert waits(outcome) == pytest.approx([30, 8, 4])


def test_consumer_on_two_devices_waits_for_both() -> None:
    wide = simulated_consumer("wide", 8, 3, 1, where=((), 2))
    host = SimulatedHost({"a": simulated_consumer("a", 8, 5, 1), "wide": wide}, (10, 10))

    outcome = simulate([Use(0, "a", 20), Use(1, "wide", 10), Use(50, "a", 1)], host)

    assert waits(outcome) == pytest.approx([5, 25 - 1 + 1 + 3, 1 + 5])
    assert outcome.evicted == ["a", "wide"]


def test_consumer_without_room_in_host_ram_is_stopped_and_starts_cold() -> None:
    names = "abc"
    sleepers = {name: simulated_consumer(name, 8, 30, 1, wake_sec=2) for name in names}
    uses = [Use(100 * at, name, 1) for at, name in enumerate("abca")]

    room_for_all = simulate(uses, SimulatedHost(sleepers, (10,)))
    one = simulate(uses, SimulatedHost(sleepers, (10,), host_ram_mib=8))
    room_for_none = simulate(uses, SimulatedHost(sleepers, (10,), host_ram_mib=7))

    assert waits(room_for_all) == pytest.approx([30, 31, 31, 3])
    assert waits(one) == pytest.approx([30, 31, 32, 32]), "a parked consumer is stopped for the next, in 1 s"
    assert one.evicted == ["a", "a", "b", "b", "c"]
    assert waits(room_for_none) == pytest.approx([30, 31, 31, 31])


def test_waking_consumer_holds_its_host_ram_until_it_is_resident() -> None:
    where = {"w": "1", "v": "1", "a": "0", "b": "0"}
    sleeps = {"w": 30.0, "a": 1.0}
    host = SimulatedHost(
        {
            name: simulated_consumer(
                name, 8, {"w": 30, "a": 20}.get(name, 5), 1, wake_sec=sleeps.get(name), where=((device,), 1)
            )
            for name, device in where.items()
        },
        (10, 10),
        host_ram_mib=8,
    )
    uses = [Use(0, "w", 1), Use(40, "v", 1), Use(50, "a", 1), Use(60, "w", 1), Use(75, "b", 1), Use(120, "a", 1)]

    outcome = simulate(uses, host)

    assert waits(outcome) == pytest.approx([30, 1 + 5, 20, 1 + 30, 1 + 5, 1 + 20]), "a was stopped, not parked"


def test_refused_requests_do_not_count_against_their_user() -> None:
    more = {"big": simulated_consumer("big", 100, 1, 1), "c": simulated_consumer("c", 8, 7, 2)}
    host, adaptive = replace(TWO, consumers={**TWO.consumers, **more}), settings_for("adaptive", PLAIN)
    refused = [Use(1, "big", 10, "x") for _ in range(20)]

    outcome = simulate([*refused, Use(2, "a", 10, "z"), Use(3, "b", 10, "x"), Use(4, "c", 10, "y")], host, adaptive)

    assert waits(outcome)[-2:] == pytest.approx([17 - 3 + 1 + 7, 35 - 4 + 2 + 7])


def test_explicit_priority_of_zero_overrides_the_consumer() -> None:
    host = replace(TWO, consumers={**TWO.consumers, "b": simulated_consumer("b", 8, 7, 2, priority=100)})
    uses = [Use(0, "a", 10), Use(1, "a", 10), Use(2, "b", 10, priority=0)]

    assert waits(simulate(uses, host)) == pytest.approx([5, 14, 25 - 2 + 1 + 7])
    assert waits(simulate([*uses[:2], Use(2, "b", 10)], host))[2] == pytest.approx(15 - 2 + 1 + 7)


def test_load_that_overlaps_a_lease_is_done_when_the_lease_ends() -> None:
    host = SimulatedHost({"a": simulated_consumer("a", 4, 5, 1), "b": simulated_consumer("b", 4, 7, 2)}, (10,))
    overlapping = replace(PLAIN, policy=Policy.ADAPTIVE, overlap=Overlap.ON)
    uses = [Use(0, "a", 20), Use(6, "b", 5)]

    assert waits(simulate(uses, host)) == pytest.approx([5, 25 - 6 + 7])
    assert waits(simulate(uses, host, overlapping)) == pytest.approx([5, 25 - 6])


def test_overlapping_load_slows_down_work_by_the_configured_share() -> None:
    host = SimulatedHost({"a": simulated_consumer("a", 4, 5, 1), "b": simulated_consumer("b", 4, 6, 2)}, (10,))
    overlapping = replace(PLAIN, policy=Policy.ADAPTIVE, overlap=Overlap.ON)

    outcome = simulate([Use(0, "a", 20), Use(6, "b", 5)], host, overlapping, SimulationParameters(slowdown=0.5))

    assert waits(outcome) == pytest.approx([5, 25 - 6 + 2]), "six seconds at two thirds of the pace lose two"


@pytest.mark.parametrize("name", POLICY_NAMES)
@pytest.mark.parametrize("kind", sorted(generate.GENERATORS))
def test_all_uses_end_and_no_lease_job_or_claim_remains(kind: str, name: str) -> None:
    scene = generate.GENERATORS[kind](3, requests=120)
    engine = Engine(scene.host, settings_for(name, PLAIN), scene.demand)
    outcome = engine.run()

    assert all(one.ended_at is not None for one in outcome.served)
    assert not engine._ledger.leases
    assert not engine._ledger.jobs
    assert not [state for state in engine._ledger.consumers.values() if state.claimed]
    held_mib = sum(engine._memory_by_device[0].values()) + scene.host.external_mib
    assert held_mib <= scene.host.total_mib[0]


@pytest.mark.parametrize("kind", sorted(generate.GENERATORS))
def test_same_seed_yields_the_same_result(kind: str) -> None:
    first, second = (metrics_of(_run(kind, 5)) for _ in range(2))

    assert first == second
    assert first != metrics_of(_run(kind, 6))


def _run(kind: str, seed: int) -> SimulationResult:
    scene = generate.GENERATORS[kind](seed, requests=60)
    return Engine(scene.host, PLAIN, scene.demand).run()


@pytest.mark.parametrize("name", [str(Policy.ADAPTIVE), ADAPTIVE_WITH_OVERLAP])
@pytest.mark.parametrize("seed", range(6))
def test_no_request_is_overtaken_by_more_than_the_budget_and_one_lease(seed: int, name: str) -> None:
    scene = generate.zipf(seed, requests=200, consumers=6, share=0.5)
    settings = settings_for(name, PLAIN)
    outcome = Engine(scene.host, settings, scene.demand).run()
    longest_sec = max(one.use.hold_sec for one in outcome.served)

    most_sec = max(one.overtaken_sec for one in outcome.served)
    assert 0 < most_sec <= settings.overtake_budget_sec + longest_sec, f"seed {seed}"


def test_adaptive_keeps_waits_bounded_for_two_alternating_consumers() -> None:
    uses = [Use(number * 6.0, "ab"[number % 2], 4.0) for number in range(200)]

    strict, adaptive = (metrics_of(simulate(uses, settings=settings_for(name, PLAIN))) for name in ("lru", "adaptive"))

    assert strict.max_wait_sec > 1000, "each request needs a reload: more work arrives than can be done"
    assert adaptive.max_wait_sec < 100


def test_adaptive_is_no_worse_than_lru_for_a_single_user() -> None:
    ratios = []
    for seed in range(4):
        totals = []
        for name in ("lru", "adaptive"):
            scene = generate.session(seed, requests=600, users=1)
            totals.append(metrics_of(Engine(scene.host, settings_for(name, PLAIN), scene.demand).run()).total_wait_sec)
        ratios.append(totals[1] / totals[0])

    assert sum(ratios) / len(ratios) < 1.05, ratios


def test_learned_times_carry_over_to_another_run() -> None:
    engine = Engine(TWO, PLAIN, OpenDemand([Use(0, "a", 10), Use(20, "b", 3)]))
    engine.run()

    learned = engine.learned()

    assert learned["a"].load_sec(8) == 5
    assert learned["b"].hold_sec() == 3
    assert Engine(TWO, PLAIN, OpenDemand([]), learned=learned).learned() == learned
