"""The policies side by side: generated families, real traces, the exact optimum, and what deciding costs.

    python -m benchmarks.policies                          # the generated families
    python -m benchmarks.policies --traces FOLDER          # and the real traces, where their files are there
    python -m benchmarks.policies --out docs/performance   # writes charts and figures.json as well

Constants were chosen on seeds 1000 to 1011; what is reported is of seeds 0 to 19.
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
from gpumand.domain.consumer import Overlap, Policy, SchedulerSettings
from gpumand.domain.learning import Start, first_load_sec
from gpumand.simulation import generate
from gpumand.simulation.demand import OpenDemand, Use
from gpumand.simulation.engine import Engine
from gpumand.simulation.generate import Scene
from gpumand.simulation.host import consumer
from gpumand.simulation.optimum import Rules, TooLarge, least_wait_sec
from gpumand.simulation.outcome import World
from gpumand.simulation.report import NAMES, Figures, figures_of, settings_for

BASE = SchedulerSettings(cushion_mib=512)
SEEDS = 20
OPTIMUM_SEEDS, OPTIMUM_REQUESTS = 6, 18

Make = Callable[[int], Scene]

FAMILIES: Mapping[str, Make] = {
    "zipf6": partial(generate.zipf, consumers=6),
    "zipf12": generate.zipf,
    "burst12": generate.burst,
    "sess6": partial(generate.session, consumers=6),
    "sess12": generate.session,
    "sess12u2": partial(generate.session, users=2),
    "pipe": generate.pipeline,
    "rr": generate.roundrobin,
}
ALONE: Mapping[str, Make] = {
    "one12": partial(generate.session, requests=1200, users=1),
    "one6": partial(generate.session, requests=1200, consumers=6, users=1),
}
"""One user alone, who waits for every answer: there is nothing to be won, and nothing may be lost."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run and how much of the limits of fairness it used.

    Attributes:
        figures: see there.
        most_over_sec: by how much work the one that was passed by most was passed beyond its budget, less one hold.
    """

    figures: Figures
    most_over_sec: float


def run(scene: Scene, settings: SchedulerSettings, world: World | None = None) -> Run:
    """One run."""
    outcome = Engine(scene.host, settings, scene.demand, world).run()
    longest_sec = max(one.use.hold_sec for one in outcome.served)
    most_sec = max(one.overtaken_sec for one in outcome.served)
    return Run(figures_of(outcome), max(0.0, most_sec - settings.overtake_budget_sec - longest_sec))


def geometric(values: Sequence[float]) -> float:
    """Geometric mean; what is 0 counts as a thousandth."""
    return math.exp(sum(math.log(max(1e-3, value)) for value in values) / len(values))


def compared(make: Make, seeds: Sequence[int]) -> dict[str, dict[str, float]]:
    """Every policy on one family: mean figures of lru, and the others' ratios to it, geometric means over the seeds."""
    runs = {name: [run(make(seed), settings_for(name, BASE)) for seed in seeds] for name in NAMES}
    first = runs["lru"]
    found = {}
    for name, ours in runs.items():
        pairs = list(zip(ours, first, strict=True))
        totals = [_ratio(one.figures.total_wait_sec, other.figures.total_wait_sec) for one, other in pairs]
        found[name] = {
            "mean_wait_sec": sum(one.figures.mean_wait_sec for one in ours) / len(ours),
            "evictions": sum(one.figures.evictions for one in ours) / len(ours),
            "total": geometric(totals),
            "worst_total": max(totals),
            "p95": geometric([_ratio(one.figures.p95, other.figures.p95) for one, other in pairs]),
            "max": geometric([_ratio(one.figures.max_wait_sec, other.figures.max_wait_sec) for one, other in pairs]),
            "load": geometric([_ratio(one.figures.load_seconds, other.figures.load_seconds) for one, other in pairs]),
            "over_sec": max(one.most_over_sec for one in ours),
        }
    return found


def _ratio(ours: float, first: float) -> float:
    return ours / first if first > 0 else 1.0


# -- distance to the optimum -------------------------------------------------------------------------------------------


def against_optimum(make: Make, seeds: Sequence[int]) -> dict[str, float]:
    """Total wait of the policies by the optimum's, geometric means; small instances, costs learned beforehand."""
    ratios: dict[str, list[float]] = {}
    for seed in seeds:
        scene = make(seed)
        everything = [replace(use, client="") for use in scene.demand.first()]
        uses = everything[:OPTIMUM_REQUESTS]
        waits = {name: _knowing(scene, everything, uses, settings_for(name, BASE)) for name in NAMES}
        for label, rules in (("turn", Rules()), ("free", Rules(any_order=True)), ("ahead", Rules(True, True))):
            bound = waits["lru"] if label == "turn" else min(waits["lru"], waits["adaptive"])
            try:
                least_sec = least_wait_sec(scene.host, uses, BASE.cushion_mib, rules, at_most=bound)
            except TooLarge:
                continue
            for name, seconds in waits.items():
                ratios.setdefault(f"{name}/{label}", []).append(_ratio(seconds, least_sec))
    return {key: geometric(values) for key, values in ratios.items()}


def _knowing(scene: Scene, before: Sequence[Use], uses: Sequence[Use], settings: SchedulerSettings) -> float:
    """Total wait of one policy that has seen these consumers before."""
    earlier = Engine(scene.host, settings, OpenDemand(before))
    earlier.run()
    outcome = Engine(scene.host, settings, OpenDemand(uses), learned=earlier.learned()).run()
    return sum(one.wait_sec for one in outcome.served)


# -- what the settings do ----------------------------------------------------------------------------------------------


def budgets(make: Make, seeds: Sequence[int]) -> dict[str, dict[str, float]]:
    """What the overtaking budget does to mean and worst wait, against strict order."""
    found = {}
    strict = [run(make(seed), _budget(0.0)).figures for seed in seeds]
    for seconds in (10.0, 30.0, 60.0, 80000.0):
        ours = [run(make(seed), _budget(seconds)).figures for seed in seeds]
        pairs = list(zip(ours, strict, strict=True))
        found[f"{seconds:g}"] = {
            "total": geometric([_ratio(one.total_wait_sec, other.total_wait_sec) for one, other in pairs]),
            "max": geometric([_ratio(one.max_wait_sec, other.max_wait_sec) for one, other in pairs]),
        }
    return found


def _budget(seconds: float) -> SchedulerSettings:
    return replace(BASE, policy=Policy.ADAPTIVE, overtake_budget_sec=seconds)


def slowdowns(make: Make, seeds: Sequence[int]) -> dict[str, dict[str, float]]:
    """Loading beside a lease where that slows work down: off, measured and on, against lru."""
    found: dict[str, dict[str, float]] = {}
    first = [run(make(seed), BASE).figures.total_wait_sec for seed in seeds]
    for slowdown in (0.0, 0.2, 0.5, 1.0):
        found[f"{slowdown:g}"] = {}
        for overlap in Overlap:
            settings = replace(BASE, policy=Policy.ADAPTIVE, overlap=overlap)
            ours = [run(make(seed), settings, World(slowdown)).figures.total_wait_sec for seed in seeds]
            found[f"{slowdown:g}"][overlap] = geometric([_ratio(a, b) for a, b in zip(ours, first, strict=True)])
    return found


def parked(make: Make, seed: int, prefixes: tuple[str, ...]) -> Scene:
    """The same, but consumers whose names begin so go to sleep instead of being stopped, their weights in host RAM."""
    scene = make(seed)
    consumers = {
        name: consumer(
            name,
            one.spec.vram_resident_mib,
            one.load_sec,
            one.unload_sec,
            wake_sec=first_load_sec(one.spec.vram_resident_mib, Start.PARKED) if name.startswith(prefixes) else None,
            coexists=sorted(one.spec.can_coexist_with),
        )
        for name, one in scene.host.consumers.items()
    }
    return replace(scene, host=replace(scene.host, consumers=consumers))


def parking(make: Make, seeds: Sequence[int]) -> dict[str, dict[str, float]]:
    """Consumers that sleep, against lru with consumers that are stopped."""
    first = [run(make(seed), BASE).figures.total_wait_sec for seed in seeds]
    found: dict[str, dict[str, float]] = {}
    for label, prefixes in (("nobody", ("-",)), ("language models", ("llm", "vllm")), ("everybody", ("",))):
        found[label] = {}
        for name in NAMES:
            settings = settings_for(name, BASE)
            ours = [run(parked(make, seed, prefixes), settings).figures.total_wait_sec for seed in seeds]
            found[label][name] = geometric([_ratio(a, b) for a, b in zip(ours, first, strict=True)])
    return found


# -- all of it ---------------------------------------------------------------------------------------------------------


def measure(folder: Path | None, seeds: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Everything but the cost of deciding."""
    families = dict(FAMILIES)
    if folder is not None:
        families |= {"azure": partial(traces.azure, folder), "mooncake": partial(traces.mooncake, folder)}
    found: dict[str, Any] = {"seeds": seeds, "families": {}, "alone": {}, "optimum": {}}
    for name, make in {**families, **ALONE}.items():
        tell(name)
        found["alone" if name in ALONE else "families"][name] = compared(make, range(seeds))
    for name in ("zipf6", "zipf12", "burst12", *(["azure", "mooncake"] if folder else [])):
        tell(f"optimum of {name}")
        found["optimum"][name] = against_optimum(families[name], range(min(seeds, OPTIMUM_SEEDS)))
    tell("budgets and slowdowns")
    found["budget"] = {name: budgets(families[name], range(min(seeds, 6))) for name in ("zipf6", "burst12")}
    found["slowdown"] = {name: slowdowns(families[name], range(min(seeds, 6))) for name in ("zipf6", "sess12", "pipe")}
    found["parking"] = {name: parking(families[name], range(min(seeds, 6))) for name in ("zipf12", "sess12", "pipe")}
    found["all"] = _overall(found["families"])
    return found


def _overall(families: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    keys = ("total", "p95", "max")
    return {
        policy: {key: geometric([one[policy][key] for one in families.values()]) for key in keys}
        | {"worst_family": max(one[policy]["total"] for one in families.values())}
        for policy in NAMES
    }


def show_families(found: Mapping[str, Any], console: Console) -> None:
    """The main table."""
    table = Table("family", "lru: mean wait, evictions", *(f"{n}: total p95 worst" for n in NAMES[1:]), "over budget")
    for name, one in {**found["families"], **found["alone"]}.items():
        lru = one["lru"]
        cells = [f"{one[n]['total']:.2f} {one[n]['p95']:.2f} {one[n]['max']:.2f}" for n in NAMES[1:]]
        over = max(one[n]["over_sec"] for n in NAMES[1:])
        table.add_row(name, f"{lru['mean_wait_sec']:.1f} s {lru['evictions']:.0f}", *cells, f"{over:.1f} s")
    cells = [" ".join(f"{found['all'][n][key]:.3f}" for key in ("total", "p95", "max")) for n in NAMES[1:]]
    table.add_row("all but alone", "", *cells, "")
    console.print(table)


def show_rest(found: Mapping[str, Any], console: Console) -> None:
    """Optimum, budget, slowdown."""
    table = Table("optimum of", *(f"{n} by {label}" for label in ("turn", "free", "ahead") for n in NAMES))
    for name, one in found["optimum"].items():
        keys = [f"{n}/{label}" for label in ("turn", "free", "ahead") for n in NAMES]
        table.add_row(name, *(f"{one[key]:.2f}" if key in one else "" for key in keys))
    console.print(table)
    for what in ("budget", "slowdown", "parking"):
        for name, one in found[what].items():
            told = "; ".join(f"{k}: " + " ".join(f"{a} {b:.2f}" for a, b in v.items()) for k, v in one.items())
            console.print(f"{what}, {name}: {told}")


def as_markdown(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *body]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def write_tables(found: Mapping[str, Any], costs: Sequence[decisions.Cost], folder: Path) -> None:
    """The tables of docs/performance.md."""
    ours = NAMES[1:]
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
    heads = ["family", *(f"{name} / {told}" for told in labels.values() for name in NAMES)]
    keys = [f"{name}/{label}" for label in labels for name in NAMES]
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
    heads = ["ms", "a plan", *(f"past {requests:,}" for requests in decisions.QUEUES)]
    (folder / "deciding.inc").write_text(as_markdown(heads, body))
    rows = [(family, slow, one) for family, slows in found["slowdown"].items() for slow, one in slows.items()]
    body = [[f"{f}, {float(slow):.0%} slower", *(f"{one[o]:.2f}" for o in Overlap)] for f, slow, one in rows]
    (folder / "overlap.inc").write_text(as_markdown(["total wait by lru's", *map(str, Overlap)], body))
    parks = [(family, who, one) for family, many in found["parking"].items() for who, one in many.items()]
    body = [[f"{f}, asleep: {who}", *(f"{one[name]:.2f}" for name in NAMES)] for f, who, one in parks]
    (folder / "parking.inc").write_text(as_markdown(["total wait by lru's", *NAMES], body))
    pairs = [(family, seconds, one) for family, many in found["budget"].items() for seconds, one in many.items()]
    body = [
        [f"{f}, {'no bound' if float(s) > 3600 else s + ' s'}", f"{one['total']:.2f}", f"{one['max']:.2f}"]
        for f, s, one in pairs
    ]
    (folder / "budget.inc").write_text(as_markdown(["by strict order's", "total wait", "worst wait"], body))


def draw(found: Mapping[str, Any], costs: Sequence[decisions.Cost], folder: Path) -> None:
    """Charts and figures as files."""
    families = {**found["families"], **found["alone"]}
    for key, title in (("total", "Total wait"), ("p95", "95th percentile of the wait"), ("max", "Worst wait")):
        series = {name: [one[name][key] for one in families.values()] for name in NAMES[1:]}
        picture = charts.bars(f"{title}, lru = 1 (lower is better)", list(families), series, "")
        (folder / f"{key}.svg").write_text(picture)
    plans = {
        policy: [(one.consumers, one.msec) for one in costs if one.policy == policy and not one.requests]
        for policy in map(str, Policy)
    }
    walks = {
        f"{policy}, past {requests:,}": [
            (one.consumers, one.msec) for one in costs if one.policy == policy and one.requests == requests
        ]
        for policy in map(str, Policy)
        for requests in (100, 10_000)
    }
    series = {f"{name}, a plan": points for name, points in plans.items()} | walks
    (folder / "deciding.svg").write_text(charts.lines("What deciding costs", series, "consumers", "ms"))
    plain = dict(found) | {"deciding": [[one.policy, one.consumers, one.requests, one.msec] for one in costs]}
    (folder / "figures.json").write_text(json.dumps(_rounded(plain), indent=1) + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {str(key): _rounded(inner) for key, inner in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def main() -> None:
    """Measure, show, and draw where that is asked for."""
    parser = argparse.ArgumentParser(description="The policies side by side.")
    parser.add_argument("--traces", type=Path, help="folder with the Azure and Mooncake traces")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--out", type=Path, help="folder for charts and figures.json")
    chosen = parser.parse_args()
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {what}", file=sys.stderr, flush=True)

    found = measure(chosen.traces, chosen.seeds, tell)
    tell("deciding")
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
