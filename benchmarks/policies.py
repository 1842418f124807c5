"""Compares the scheduling policies: on generated families, real traces, the exact optimum, and by the cost of deciding.

    python -m benchmarks.policies                          # the generated families
    python -m benchmarks.policies --traces FOLDER          # and the real traces, from files in this folder
    python -m benchmarks.policies --out docs/performance   # writes charts and figures.json as well

Constants of the policies were chosen on seeds 1000 to 1011; reported results are from seeds 0 to 19.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import charts, decisions, traces
from benchmarks.table import show
from gpumand.domain.assumed_times import Start, default_load_sec
from gpumand.domain.consumer import Overlap, Policy, SchedulerSettings
from gpumand.simulation import generate
from gpumand.simulation.demand import OpenDemand, Use
from gpumand.simulation.engine import Engine
from gpumand.simulation.generate import Scenario
from gpumand.simulation.host import simulated_consumer
from gpumand.simulation.optimum import ScheduleRules, TooLarge, least_wait_sec
from gpumand.simulation.outcome import SimulationParameters
from gpumand.simulation.report import POLICY_NAMES, Metrics, metrics_of, settings_for

BASE = SchedulerSettings(cushion_mib=512, concurrent_leases=1, min_turn_sec=0.0)
SEEDS = 20
OPTIMUM_SEEDS, OPTIMUM_REQUESTS = 6, 18

ScenarioFactory = Callable[[int], Scenario]

FAMILIES: Mapping[str, ScenarioFactory] = {
    "zipf6": partial(generate.zipf, consumers=6),
    "zipf12": generate.zipf,
    "burst12": generate.burst,
    "sess6": partial(generate.session, consumers=6),
    "sess12": generate.session,
    "sess12u2": partial(generate.session, users=2),
    "pipe": generate.pipeline,
    "rr": generate.roundrobin,
}
SINGLE_USER: Mapping[str, ScenarioFactory] = {
    "one12": partial(generate.session, requests=1200, users=1),
    "one6": partial(generate.session, requests=1200, consumers=6, users=1),
}
"""A single user that waits for every answer: no policy can gain anything here, and none may lose."""


@dataclass(frozen=True, slots=True)
class Run:
    """The results of one simulation.

    Attributes:
        metrics: see Metrics.
        max_over_budget_sec: seconds of work, beyond its budget and one use, by which any request was overtaken at most.
    """

    metrics: Metrics
    max_over_budget_sec: float


def run(scenario: Scenario, settings: SchedulerSettings, parameters: SimulationParameters | None = None) -> Run:
    """Simulate a scenario with these settings."""
    outcome = Engine(scenario.host, settings, scenario.demand, parameters).run()
    longest_sec = max(one.use.hold_sec for one in outcome.served)
    most_sec = max(one.overtaken_sec for one in outcome.served)
    return Run(metrics_of(outcome), max(0.0, most_sec - settings.overtake_budget_sec - longest_sec))


def geometric_mean(values: Sequence[float]) -> float:
    """The geometric mean; 0 counts as a thousandth."""
    return math.exp(sum(math.log(max(1e-3, value)) for value in values) / len(values))


def compare(make: ScenarioFactory, seeds: Sequence[int]) -> dict[str, dict[str, float]]:
    """Simulate every policy on one family: means of lru, and the other policies' ratios to it (geometric means)."""
    runs = {name: [run(make(seed), settings_for(name, BASE)) for seed in seeds] for name in POLICY_NAMES}
    lru = runs["lru"]
    found = {}
    for name, ours in runs.items():
        pairs = list(zip(ours, lru, strict=True))
        totals = [_ratio(one.metrics.total_wait_sec, other.metrics.total_wait_sec) for one, other in pairs]
        found[name] = {
            "mean_wait_sec": sum(one.metrics.mean_wait_sec for one in ours) / len(ours),
            "evictions": sum(one.metrics.evictions for one in ours) / len(ours),
            "total": geometric_mean(totals),
            "worst_total": max(totals),
            "p95": geometric_mean([_ratio(one.metrics.p95, other.metrics.p95) for one, other in pairs]),
            "max": geometric_mean(
                [_ratio(one.metrics.max_wait_sec, other.metrics.max_wait_sec) for one, other in pairs]
            ),
            "load": geometric_mean(
                [_ratio(one.metrics.load_seconds, other.metrics.load_seconds) for one, other in pairs]
            ),
            "over_sec": max(one.max_over_budget_sec for one in ours),
        }
    return found


def _ratio(ours: float, first: float) -> float:
    return ours / first if first > 0 else 1.0


# -- distance to the optimum -------------------------------------------------------------------------------------------


def against_optimum(make: ScenarioFactory, seeds: Sequence[int]) -> dict[str, float]:
    """Ratios of total wait to the optimum's, geometric means, on small instances with durations learned beforehand."""
    ratios: dict[str, list[float]] = {}
    for seed in seeds:
        scenario = make(seed)
        everything = [replace(use, client="") for use in scenario.demand.initial_uses()]
        uses = everything[:OPTIMUM_REQUESTS]
        waits = {
            name: _total_wait_with_history(scenario, everything, uses, settings_for(name, BASE))
            for name in POLICY_NAMES
        }
        for label, rules in (
            ("turn", ScheduleRules()),
            ("free", ScheduleRules(any_order=True)),
            ("ahead", ScheduleRules(True, True)),
        ):
            bound = waits["lru"] if label == "turn" else min(waits["lru"], waits["adaptive"])
            try:
                least_sec = least_wait_sec(scenario.host, uses, BASE.cushion_mib, rules, at_most=bound)
            except TooLarge:
                continue
            for name, seconds in waits.items():
                ratios.setdefault(f"{name}/{label}", []).append(_ratio(seconds, least_sec))
    return {key: geometric_mean(values) for key, values in ratios.items()}


def _total_wait_with_history(
    scenario: Scenario, before: Sequence[Use], uses: Sequence[Use], settings: SchedulerSettings
) -> float:
    """Total wait of one policy that has learned the consumers' durations from earlier demand."""
    earlier = Engine(scenario.host, settings, OpenDemand(before))
    earlier.run()
    outcome = Engine(scenario.host, settings, OpenDemand(uses), learned=earlier.learned()).run()
    return sum(one.wait_sec for one in outcome.served)


# -- effects of settings ----------------------------------------------------------------------------------------------


def budgets(make: ScenarioFactory, seeds: Sequence[int]) -> dict[str, dict[str, float]]:
    """The effect of the overtaking budget on mean and worst wait, relative to strict order."""
    found = {}
    strict = [run(make(seed), _budget(0.0)).metrics for seed in seeds]
    for seconds in (10.0, 30.0, 60.0, 80000.0):
        ours = [run(make(seed), _budget(seconds)).metrics for seed in seeds]
        pairs = list(zip(ours, strict, strict=True))
        found[f"{seconds:g}"] = {
            "total": geometric_mean([_ratio(one.total_wait_sec, other.total_wait_sec) for one, other in pairs]),
            "max": geometric_mean([_ratio(one.max_wait_sec, other.max_wait_sec) for one, other in pairs]),
        }
    return found


def _budget(seconds: float) -> SchedulerSettings:
    return replace(BASE, policy=Policy.ADAPTIVE, overtake_budget_sec=seconds)


def slowdowns(make: ScenarioFactory, seeds: Sequence[int]) -> dict[str, dict[str, float]]:
    """The effect of overlap off, measured and on where loads slow leases down, relative to lru."""
    found: dict[str, dict[str, float]] = {}
    lru = [run(make(seed), BASE).metrics.total_wait_sec for seed in seeds]
    for slowdown in (0.0, 0.2, 0.5, 1.0):
        found[f"{slowdown:g}"] = {}
        for overlap in Overlap:
            settings = replace(BASE, policy=Policy.ADAPTIVE, overlap=overlap)
            ours = [run(make(seed), settings, SimulationParameters(slowdown)).metrics.total_wait_sec for seed in seeds]
            found[f"{slowdown:g}"][overlap] = geometric_mean([_ratio(a, b) for a, b in zip(ours, lru, strict=True)])
    return found


def with_parking(make: ScenarioFactory, seed: int, prefixes: tuple[str, ...]) -> Scenario:
    """The scenario with consumers of these name prefixes parked in host RAM instead of stopped."""
    scenario = make(seed)
    consumers = {
        name: simulated_consumer(
            name,
            one.spec.vram_resident_mib,
            one.load_sec,
            one.unload_sec,
            wake_sec=default_load_sec(one.spec.vram_resident_mib, Start.PARKED) if name.startswith(prefixes) else None,
            coexists=sorted(one.spec.can_coexist_with),
        )
        for name, one in scenario.host.consumers.items()
    }
    return replace(scenario, host=replace(scenario.host, consumers=consumers))


def parking(make: ScenarioFactory, seeds: Sequence[int]) -> dict[str, dict[str, float]]:
    """The effect of parking consumers, relative to lru with consumers that are stopped."""
    lru = [run(make(seed), BASE).metrics.total_wait_sec for seed in seeds]
    found: dict[str, dict[str, float]] = {}
    for label, prefixes in (("none", ("-",)), ("language models", ("llm", "vllm")), ("all", ("",))):
        found[label] = {}
        for name in POLICY_NAMES:
            settings = settings_for(name, BASE)
            ours = [run(with_parking(make, seed, prefixes), settings).metrics.total_wait_sec for seed in seeds]
            found[label][name] = geometric_mean([_ratio(a, b) for a, b in zip(ours, lru, strict=True)])
    return found


# -- all results ------------------------------------------------------------------------------------------------------


def measure(folder: Path | None, seeds: int, report: Callable[[str], None]) -> dict[str, Any]:
    """Run all simulations; ``report`` is called with the name of each step."""
    families = dict(FAMILIES)
    if folder is not None:
        families |= {"azure": partial(traces.azure, folder), "mooncake": partial(traces.mooncake, folder)}
    found: dict[str, Any] = {"seeds": seeds, "families": {}, "alone": {}, "optimum": {}}
    for name, make in {**families, **SINGLE_USER}.items():
        report(name)
        found["alone" if name in SINGLE_USER else "families"][name] = compare(make, range(seeds))
    for name in ("zipf6", "zipf12", "burst12", *(["azure", "mooncake"] if folder else [])):
        report(f"optimum of {name}")
        found["optimum"][name] = against_optimum(families[name], range(min(seeds, OPTIMUM_SEEDS)))
    report("budgets and slowdowns")
    found["budget"] = {name: budgets(families[name], range(min(seeds, 6))) for name in ("zipf6", "burst12")}
    found["slowdown"] = {name: slowdowns(families[name], range(min(seeds, 6))) for name in ("zipf6", "sess12", "pipe")}
    found["parking"] = {name: parking(families[name], range(min(seeds, 6))) for name in ("zipf12", "sess12", "pipe")}
    found["all"] = _overall(found["families"])
    return found


def _overall(families: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    keys = ("total", "p95", "max")
    return {
        policy: {key: geometric_mean([one[policy][key] for one in families.values()]) for key in keys}
        | {"worst_family": max(one[policy]["total"] for one in families.values())}
        for policy in POLICY_NAMES
    }


def show_families(found: Mapping[str, Any], console: Console) -> None:
    """Print the table of all families."""
    table = Table(
        "family", "lru: mean wait, evictions", *(f"{n}: total p95 worst" for n in POLICY_NAMES[1:]), "over budget"
    )
    for name, one in {**found["families"], **found["alone"]}.items():
        lru = one["lru"]
        cells = [f"{one[n]['total']:.2f} {one[n]['p95']:.2f} {one[n]['max']:.2f}" for n in POLICY_NAMES[1:]]
        over = max(one[n]["over_sec"] for n in POLICY_NAMES[1:])
        table.add_row(name, f"{lru['mean_wait_sec']:.1f} s {lru['evictions']:.0f}", *cells, f"{over:.1f} s")
    cells = [" ".join(f"{found['all'][n][key]:.3f}" for key in ("total", "p95", "max")) for n in POLICY_NAMES[1:]]
    table.add_row("all but alone", "", *cells, "")
    console.print(table)


def show_rest(found: Mapping[str, Any], console: Console) -> None:
    """Print the distance to the optimum and the effects of budget, slowdown and parking."""
    table = Table("optimum of", *(f"{n} by {label}" for label in ("turn", "free", "ahead") for n in POLICY_NAMES))
    for name, one in found["optimum"].items():
        keys = [f"{n}/{label}" for label in ("turn", "free", "ahead") for n in POLICY_NAMES]
        table.add_row(name, *(f"{one[key]:.2f}" if key in one else "" for key in keys))
    console.print(table)
    for what in ("budget", "slowdown", "parking"):
        for name, one in found[what].items():
            values = "; ".join(f"{k}: " + " ".join(f"{a} {b:.2f}" for a, b in v.items()) for k, v in one.items())
            console.print(f"{what}, {name}: {values}")


def as_markdown(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Format a table as Markdown."""
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def write_tables(found: Mapping[str, Any], costs: Sequence[decisions.Cost], folder: Path) -> None:
    """Write the tables of docs/performance.md."""
    ours = POLICY_NAMES[1:]
    heads = ["family", "lru: mean wait, s", "evictions"]
    heads += [f"{name}: {key}" for name in ours for key in ("total", "p95", "worst")]
    body = [
        [name, f"{one['lru']['mean_wait_sec']:.1f}", f"{one['lru']['evictions']:.0f}"]
        + [f"{one[policy][key]:.2f}" for policy in ours for key in ("total", "p95", "max")]
        for name, one in {**found["families"], **found["alone"]}.items()
    ]
    overall = [f"{found['all'][policy][key]:.3f}" for policy in ours for key in ("total", "p95", "max")]
    body.insert(len(found["families"]), ["**geometric mean**", "", "", *overall])
    (folder / "families.inc").write_text(as_markdown(heads, body))
    labels = {"turn": "in turn", "free": "any order", "ahead": "any order, loading ahead"}
    heads = ["family", *(f"{name} / {title}" for title in labels.values() for name in POLICY_NAMES)]
    keys = [f"{name}/{label}" for label in labels for name in POLICY_NAMES]
    body = [[f, *(f"{one[key]:.2f}" if key in one else "" for key in keys)] for f, one in found["optimum"].items()]
    (folder / "optimum.inc").write_text(as_markdown(heads, body))
    body = [
        [f"{policy}, {consumers:,} consumers"]
        + [
            f"{cost.msec:.2f}"
            for cost in sorted(costs, key=lambda one: one.requests)
            if (cost.policy, cost.consumers) == (policy, consumers)
        ]
        for policy in map(str, Policy)
        for consumers in decisions.CONSUMERS
    ]
    heads = ["ms", "plan", *(f"queue of {requests:,}" for requests in decisions.QUEUES)]
    (folder / "deciding.inc").write_text(as_markdown(heads, body))
    rows = [(family, slow, one) for family, slows in found["slowdown"].items() for slow, one in slows.items()]
    body = [[f"{f}, {float(slow):.0%} slower", *(f"{one[o]:.2f}" for o in Overlap)] for f, slow, one in rows]
    (folder / "overlap.inc").write_text(as_markdown(["total wait, lru = 1", *map(str, Overlap)], body))
    parks = [(family, parked, one) for family, many in found["parking"].items() for parked, one in many.items()]
    body = [[f"{f}, asleep: {parked}", *(f"{one[name]:.2f}" for name in POLICY_NAMES)] for f, parked, one in parks]
    (folder / "parking.inc").write_text(as_markdown(["total wait, lru = 1", *POLICY_NAMES], body))
    pairs = [(family, seconds, one) for family, many in found["budget"].items() for seconds, one in many.items()]
    body = [
        [f"{f}, {'no bound' if float(s) > 3600 else s + ' s'}", f"{one['total']:.2f}", f"{one['max']:.2f}"]
        for f, s, one in pairs
    ]
    (folder / "budget.inc").write_text(as_markdown(["strict order = 1", "total wait", "worst wait"], body))


def draw(found: Mapping[str, Any], costs: Sequence[decisions.Cost], folder: Path) -> None:
    """Write the charts of docs/performance.md, and all results as figures.json."""
    families = {**found["families"], **found["alone"]}
    for key, title in (("total", "Total wait"), ("p95", "95th percentile of the wait"), ("max", "Worst wait")):
        series = {name: [one[name][key] for one in families.values()] for name in POLICY_NAMES[1:]}
        picture = charts.bars(f"{title}, lru = 1 (lower is better)", list(families), series, "")
        (folder / f"{key}.svg").write_text(picture)
    plans = {
        policy: [(one.consumers, one.msec) for one in costs if one.policy == policy and not one.requests]
        for policy in map(str, Policy)
    }
    passes = {
        f"{policy}, queue {requests:,}": [
            (one.consumers, one.msec) for one in costs if one.policy == policy and one.requests == requests
        ]
        for policy in map(str, Policy)
        for requests in (100, 10_000)
    }
    series = {f"{name}, plan": points for name, points in plans.items()} | passes
    (folder / "deciding.svg").write_text(charts.lines("Cost of a decision", series, "consumers", "ms"))
    results = dict(found) | {"deciding": [[one.policy, one.consumers, one.requests, one.msec] for one in costs]}
    (folder / "figures.json").write_text(json.dumps(_rounded(results), indent=1) + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {str(key): _rounded(inner) for key, inner in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def main() -> None:
    """Run the comparison, print it, and write charts and tables if requested."""
    parser = argparse.ArgumentParser(description="Compare the scheduling policies.")
    parser.add_argument("--traces", type=Path, help="folder with the Azure and Mooncake traces")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--out", type=Path, help="folder for charts and figures.json")
    chosen = parser.parse_args()
    started = time.monotonic()

    def report(what: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {what}", file=sys.stderr, flush=True)

    found = measure(chosen.traces, chosen.seeds, report)
    report("cost of decisions")
    costs = decisions.costs()
    console = Console(width=150)
    show_families(found, console)
    show_rest(found, console)
    show(decisions.rows(costs))
    if chosen.out is not None:
        chosen.out.mkdir(parents=True, exist_ok=True)
        draw(found, costs, chosen.out)
        write_tables(found, costs, chosen.out)


if __name__ == "__main__":
    main()
