"""The engine: times as they must come out, the same rules as the daemon's, and nobody passed by too much."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpumand.domain.consumer import Overlap, Policy, SchedulerSettings
from gpumand.simulation import generate
from gpumand.simulation.demand import OpenDemand, Use
from gpumand.simulation.engine import Engine
from gpumand.simulation.host import Host, consumer
from gpumand.simulation.outcome import Outcome, World
from gpumand.simulation.report import NAMES, OVERLAPPING, figures_of, settings_for

PLAIN = SchedulerSettings(cushion_mib=0)
TWO = Host({"a": consumer("a", 8, 5, 1), "b": consumer("b", 8, 7, 2)}, (10,))


def ran(uses: list[Use], host: Host = TWO, settings: SchedulerSettings = PLAIN, world: World | None = None) -> Outcome:
    return Engine(host, settings, OpenDemand(uses), world).run()


def waits(outcome: Outcome) -> list[float]:
    return [one.wait_sec for one in outcome.served]


def test_a_load_an_eviction_and_what_is_resident_take_their_seconds() -> None:
    outcome = ran([Use(0, "a", 10), Use(2, "a", 10), Use(3, "b", 10), Use(100, "b", 1)])

    assert waits(outcome) == pytest.approx([5, 13, 25 - 3 + 1 + 7, 0])
    assert (outcome.evictions, outcome.loads, outcome.load_seconds) == (1, 2, 12)


def test_what_never_fits_is_refused_and_what_is_unknown_too() -> None:
    host = Host({"big": consumer("big", 100, 1, 1)}, (10,))

    figures = figures_of(ran([Use(0, "big", 1), Use(1, "nobody", 1)], host))

    assert (figures.requests, figures.refused) == (0, 2)


def test_two_that_coexist_stay_both() -> None:
    host = Host({"a": consumer("a", 4, 5, 1, coexists=["b"]), "b": consumer("b", 4, 7, 2, coexists=["a"])}, (10,))

    outcome = ran([Use(0, "a", 1), Use(20, "b", 1), Use(40, "a", 1), Use(60, "b", 1)], host)

    assert waits(outcome) == pytest.approx([5, 7, 0, 0])


def test_two_devices_hold_one_each() -> None:
    outcome = ran(
        [Use(0, "a", 10), Use(0, "b", 10), Use(50, "a", 1), Use(50, "b", 1)], replace(TWO, total_mib=(10, 10))
    )

    assert waits(outcome) == pytest.approx([5, 7, 0, 0])


def test_who_sleeps_wakes_up_faster_than_it_loads() -> None:
    host = Host({"a": consumer("a", 8, 30, 1, wake_sec=2), "b": consumer("b", 8, 7, 2)}, (10,))

    outcome = ran([Use(0, "a", 1), Use(100, "b", 1), Use(200, "a", 1)], host)

    assert waits(outcome) == pytest.approx([30, 8, 4])


def test_one_that_needs_two_devices_waits_for_both_and_has_both() -> None:
    wide = consumer("wide", 8, 3, 1, where=((), 2))
    host = Host({"a": consumer("a", 8, 5, 1), "wide": wide}, (10, 10))

    outcome = ran([Use(0, "a", 20), Use(1, "wide", 10), Use(50, "a", 1)], host)

    assert waits(outcome) == pytest.approx([5, 25 - 1 + 1 + 3, 1 + 5])
    assert outcome.evicted == ["a", "wide"]


def test_who_finds_no_room_in_host_ram_is_stopped_and_starts_cold() -> None:
    names = "abc"
    sleepers = {name: consumer(name, 8, 30, 1, wake_sec=2) for name in names}
    uses = [Use(100 * at, name, 1) for at, name in enumerate("abca")]

    everybody = ran(uses, Host(sleepers, (10,)))
    one = ran(uses, Host(sleepers, (10,), host_ram_mib=8))
    nobody = ran(uses, Host(sleepers, (10,), host_ram_mib=7))

    assert waits(everybody) == pytest.approx([30, 31, 31, 3])
    assert waits(one) == pytest.approx([30, 31, 32, 32]), "who is parked already is stopped for the next, in a second"
    assert one.evicted == ["a", "a", "b", "b", "c"]
    assert waits(nobody) == pytest.approx([30, 31, 31, 31])


def test_who_is_being_woken_holds_its_host_ram_until_it_is_awake() -> None:
    where = {"w": "1", "v": "1", "a": "0", "b": "0"}
    sleeps = {"w": 30.0, "a": 1.0}
    host = Host(
        {
            name: consumer(name, 8, {"w": 30, "a": 20}.get(name, 5), 1, wake_sec=sleeps.get(name), where=((device,), 1))
            for name, device in where.items()
        },
        (10, 10),
        host_ram_mib=8,
    )
    uses = [Use(0, "w", 1), Use(40, "v", 1), Use(50, "a", 1), Use(60, "w", 1), Use(75, "b", 1), Use(120, "a", 1)]

    outcome = ran(uses, host)

    assert waits(outcome) == pytest.approx([30, 1 + 5, 20, 1 + 30, 1 + 5, 1 + 20]), "a was stopped, not parked"


def test_what_is_refused_is_not_held_against_its_user() -> None:
    more = {"big": consumer("big", 100, 1, 1), "c": consumer("c", 8, 7, 2)}
    host, adaptive = replace(TWO, consumers={**TWO.consumers, **more}), settings_for("adaptive", PLAIN)
    in_vain = [Use(1, "big", 10, "x") for _ in range(20)]

    outcome = ran([*in_vain, Use(2, "a", 10, "z"), Use(3, "b", 10, "x"), Use(4, "c", 10, "y")], host, adaptive)

    assert waits(outcome)[-2:] == pytest.approx([17 - 3 + 1 + 7, 35 - 4 + 2 + 7])


def test_a_priority_of_zero_is_one_of_its_own() -> None:
    host = replace(TWO, consumers={**TWO.consumers, "b": consumer("b", 8, 7, 2, priority=100)})
    uses = [Use(0, "a", 10), Use(1, "a", 10), Use(2, "b", 10, priority=0)]

    assert waits(ran(uses, host)) == pytest.approx([5, 14, 25 - 2 + 1 + 7])
    assert waits(ran([*uses[:2], Use(2, "b", 10)], host))[2] == pytest.approx(15 - 2 + 1 + 7)


def test_a_load_beside_work_is_done_when_that_ends() -> None:
    host = Host({"a": consumer("a", 4, 5, 1), "b": consumer("b", 4, 7, 2)}, (10,))
    overlapping = replace(PLAIN, policy=Policy.ADAPTIVE, overlap=Overlap.ON)
    uses = [Use(0, "a", 20), Use(6, "b", 5)]

    assert waits(ran(uses, host)) == pytest.approx([5, 25 - 6 + 7])
    assert waits(ran(uses, host, overlapping)) == pytest.approx([5, 25 - 6])


def test_work_beside_a_load_takes_longer_where_the_world_is_so() -> None:
    host = Host({"a": consumer("a", 4, 5, 1), "b": consumer("b", 4, 6, 2)}, (10,))
    overlapping = replace(PLAIN, policy=Policy.ADAPTIVE, overlap=Overlap.ON)

    outcome = ran([Use(0, "a", 20), Use(6, "b", 5)], host, overlapping, World(slowdown=0.5))

    assert waits(outcome) == pytest.approx([5, 25 - 6 + 2]), "six seconds at two thirds of the pace lose two"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", sorted(generate.GENERATORS))
def test_everybody_is_served_and_nothing_is_left_behind(kind: str, name: str) -> None:
    scene = generate.GENERATORS[kind](3, requests=120)
    engine = Engine(scene.host, settings_for(name, PLAIN), scene.demand)
    outcome = engine.run()

    assert all(one.ended_at is not None for one in outcome.served)
    assert not engine._ledger.leases
    assert not engine._ledger.jobs
    assert not [state for state in engine._ledger.consumers.values() if state.claimed]
    held_mib = sum(engine._held[0].values()) + scene.host.external_mib
    assert held_mib <= scene.host.total_mib[0]


@pytest.mark.parametrize("kind", sorted(generate.GENERATORS))
def test_the_same_seed_gives_the_same_outcome(kind: str) -> None:
    first, second = (figures_of(_run(kind, 5)) for _ in range(2))

    assert first == second
    assert first != figures_of(_run(kind, 6))


def _run(kind: str, seed: int) -> Outcome:
    scene = generate.GENERATORS[kind](seed, requests=60)
    return Engine(scene.host, PLAIN, scene.demand).run()


@pytest.mark.parametrize("name", [str(Policy.ADAPTIVE), OVERLAPPING])
@pytest.mark.parametrize("seed", range(6))
def test_nobody_is_passed_by_more_than_the_budget_and_one_hold(seed: int, name: str) -> None:
    scene = generate.zipf(seed, requests=200, consumers=6, share=0.5)
    settings = settings_for(name, PLAIN)
    outcome = Engine(scene.host, settings, scene.demand).run()
    longest_sec = max(one.use.hold_sec for one in outcome.served)

    most_sec = max(one.overtaken_sec for one in outcome.served)
    assert 0 < most_sec <= settings.overtake_budget_sec + longest_sec, f"seed {seed}"


def test_two_that_exclude_each_other_stay_stable_under_adaptive() -> None:
    uses = [Use(number * 6.0, "ab"[number % 2], 4.0) for number in range(200)]

    strict, adaptive = (figures_of(ran(uses, settings=settings_for(name, PLAIN))) for name in ("lru", "adaptive"))

    assert strict.max_wait_sec > 1000, "each request is a reload: more work comes than can be done"
    assert adaptive.max_wait_sec < 100


def test_one_user_alone_loses_nothing() -> None:
    ratios = []
    for seed in range(4):
        totals = []
        for name in ("lru", "adaptive"):
            scene = generate.session(seed, requests=600, users=1)
            totals.append(figures_of(Engine(scene.host, settings_for(name, PLAIN), scene.demand).run()).total_wait_sec)
        ratios.append(totals[1] / totals[0])

    assert sum(ratios) / len(ratios) < 1.05, ratios


def test_what_was_learned_in_one_run_is_known_in_the_next() -> None:
    engine = Engine(TWO, PLAIN, OpenDemand([Use(0, "a", 10), Use(20, "b", 3)]))
    engine.run()

    learned = engine.learned()

    assert learned["a"].load_sec(8) == 5
    assert learned["b"].hold_sec() == 3
    assert Engine(TWO, PLAIN, OpenDemand([]), learned=learned).learned() == learned
