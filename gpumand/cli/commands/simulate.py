"""``gpumanctl simulate``: replays demand against scheduling policies and compares their waiting times."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpumand.cli.options import Command, global_options
from gpumand.cli.output import print_json

if TYPE_CHECKING:
    from gpumand.domain.consumer import ConsumerSpec
    from gpumand.simulation.demand import Demand, Use
    from gpumand.simulation.host import SimulatedHost
    from gpumand.simulation.report import Metrics

KINDS = ("zipf", "burst", "session", "pipeline", "roundrobin")
POLICIES = ("lru", "adaptive", "adaptive+overlap")
SETTINGS = {
    "cushion": "cushion_mib",
    "concurrent_leases": "concurrent_leases",
    "aging": "aging_sec",
    "overtake_budget": "overtake_budget_sec",
    "min_turn": "min_turn_sec",
}
"""Option -> key of ``[scheduler]``."""


@click.command(cls=Command)
@click.argument("demand", required=False, type=click.Path(path_type=Path))
@click.option(
    "--consumers",
    type=click.Path(path_type=Path),
    help="TOML file with the devices, the consumers and their load and unload times; or the configuration of the "
    "daemon, for which the times are estimated.",
)
@click.option(
    "--device-mib", type=click.IntRange(1, 2**24), multiple=True, help="Size of a device; may be given several times."
)
@click.option("--generate", type=click.Choice(KINDS), help="Generate demand of this kind and its consumers.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Seed of generated demand. Default: 0.")
@click.option("--requests", type=click.IntRange(1, 1_000_000), help="Number of generated requests.")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    type=click.Choice(POLICIES),
    help="Policy to simulate. Default: all, lru first.",
)
@click.option(
    "--overtake-budget", type=click.FloatRange(0, 86400), metavar="SEC", help="As overtake_budget_sec. Default: 30."
)
@click.option("--min-turn", type=click.FloatRange(0, 86400), metavar="SEC", help="As min_turn_sec. Default: auto.")
@click.option("--aging", type=click.FloatRange(0.1, 86400), metavar="SEC", help="As aging_sec. Default: 120.")
@click.option("--cushion", type=click.IntRange(0, 2**24), metavar="MIB", help="As cushion_mib. Default: 256.")
@click.option(
    "--concurrent-leases", type=click.IntRange(0, 1024), metavar="N", help="As concurrent_leases. Default: 0."
)
@click.option(
    "--slowdown",
    type=click.FloatRange(0, 10),
    default=0.0,
    help="Slowdown of work while another consumer loads: 0.2 = 20 % longer. Default: 0.",
)
@click.pass_context
def simulate(ctx: click.Context, /, **chosen: Any) -> None:
    """Compare scheduling policies on recorded or generated demand.

    Runs in virtual time and needs no running gpumand.

    DEMAND is a file of JSON lines with t, consumer and hold_sec, and optionally client and priority, as the daemon
    writes it with [history] demand_log; --consumers describes its consumers. Without DEMAND, generate demand with
    --generate. If --consumers is a configuration of the daemon, its [scheduler] values are the defaults.
    """
    from gpumand.domain.consumer import Overlap
    from gpumand.simulation.engine import Engine
    from gpumand.simulation.outcome import SimulationParameters
    from gpumand.simulation.report import metrics_of, settings_for

    given = {setting: chosen[option] for option, setting in SETTINGS.items() if chosen[option] is not None}
    results: list[tuple[str, Metrics]] = []
    for name in chosen["policies"] or POLICIES:
        host, demand = _load_scenario(chosen)  # for each policy from scratch: generated clients keep state
        settings = settings_for(name, replace(host.settings, overlap=Overlap.OFF, **given))
        outcome = Engine(host, settings, demand, SimulationParameters(chosen["slowdown"])).run()
        results.append((name, metrics_of(outcome)))
    if chosen["demand"] is not None and not global_options(ctx).quiet:
        _report_skipped(host, chosen["demand"])
    _show(ctx, results)


def _load_scenario(chosen: dict[str, Any]) -> tuple[SimulatedHost, Demand]:
    """The host and the demand to simulate.

    Raises:
        click.UsageError: options that exclude each other, or a file that cannot be used.
    """
    if (chosen["demand"] is None) == (chosen["generate"] is None):
        raise click.UsageError("give either a DEMAND file or --generate")
    if chosen["generate"] is not None:
        if chosen["consumers"] is not None or chosen["device_mib"]:
            raise click.UsageError("--generate defines its own host; omit --consumers and --device-mib")
        from gpumand.simulation.generate import GENERATORS

        more = {"requests": chosen["requests"]} if chosen["requests"] else {}
        scene = GENERATORS[chosen["generate"]](chosen["seed"], **more)
        return scene.host, scene.demand
    if chosen["consumers"] is None:
        raise click.UsageError("--consumers is missing; give a file with the consumers and their load times")
    host = _host(chosen["consumers"])
    sizes = tuple(chosen["device_mib"]) or host.total_mib
    return replace(host, total_mib=sizes), _demand(chosen["demand"], chosen["consumers"], host)


def _host(path: Path) -> SimulatedHost:
    from gpumand.config import ConfigProblems, load
    from gpumand.simulation import host

    try:
        text = "" if path.is_dir() else path.read_text()  # a folder can only be a configuration of the daemon
        return host.parse(text) if text and host.has_times(text) else host.host_from_settings(load(path, _not_measured))
    except RecursionError:
        raise click.UsageError(f"{path}: nested too deeply") from None
    except (ValueError, OSError) as error:
        raise click.UsageError(f"{path}: {error}") from None
    except ConfigProblems as error:
        raise click.UsageError(str(error.problems[0])) from None


def _not_measured(spec: ConsumerSpec) -> int:
    if spec.vram_managed:
        return 1  # any value: its requests are skipped
    raise ValueError(f"consumers.{spec.name}.vram_resident_mib is missing: simulate does not use measured footprints")


def _demand(path: Path, consumers: Path, host: SimulatedHost) -> Demand:
    from gpumand.simulation.demand import OpenDemand

    uses = _uses(path)
    unknown = {use.consumer for use in uses} - host.consumers.keys() - host.managed
    if unknown:
        raise click.UsageError(f"{consumers} has no consumer {min(unknown)!r}, which {path} requests")
    return OpenDemand([use for use in uses if use.consumer not in host.managed])


def _uses(path: Path) -> list[Use]:
    from gpumand.simulation import demand

    try:
        with path.open() as lines:
            return demand.parse(lines, str(path))
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{path}: not a text file: {error}") from None
    except (ValueError, OSError) as error:
        raise click.UsageError(str(error)) from None


def _report_skipped(host: SimulatedHost, path: Path) -> None:
    """Report on stderr how many requests are skipped because their consumers manage their own memory."""
    skipped = [use.consumer for use in _uses(path) if use.consumer in host.managed]
    if skipped:
        from gpumand.cli.render.format import count, plural

        names = sorted(set(skipped))
        whose = plural(names, "a consumer", "consumers")
        number = count(len(skipped), "request")
        print(f"Skipped {number} for {whose} with vram_managed = true: {', '.join(names)}", file=sys.stderr)


def _show(ctx: click.Context, results: list[tuple[str, Metrics]]) -> None:
    first = results[0][1]
    options = global_options(ctx)
    if options.json:
        objects = [one.as_json(name, first if len(results) > 1 else None) for name, one in results]
        return print_json({"policies": objects})
    from gpumand.cli.output import print_lines, theme_for
    from gpumand.cli.render.table import Column, table

    columns = [
        Column("POLICY"),
        Column("MEAN WAIT", right=True),
        Column("P50", right=True, drop_priority=4),
        Column("P95", right=True, drop_priority=1),
        Column("P99", right=True, drop_priority=3),
        Column("WORST", right=True, drop_priority=1),
        Column("TOTAL", right=True, drop_priority=5),
        Column("EVICTIONS", right=True, drop_priority=2),
        Column("LOADING", right=True, drop_priority=2),
        Column("REQUESTS", right=True, drop_priority=3),
        Column("REFUSED", right=True, drop_priority=1),
    ]
    rows = [_row(name, one, first) for name, one in results]
    return print_lines(table(columns, rows, theme_for(sys.stdout, options)), options)


def _row(name: str, one: Metrics, first: Metrics) -> list[str]:
    waits = ("mean_wait_sec", "p50", "p95", "p99", "max_wait_sec", "total_wait_sec")
    cells = [_cell(getattr(one, key), one.ratios_to(first)[key], " s", one is first) for key in waits]
    cells.append(_cell(one.evictions, one.ratios_to(first)["evictions"], "", one is first))
    cells.append(_cell(one.load_seconds, one.ratios_to(first)["load_seconds"], " s", one is first))
    return [name, *cells, str(one.requests), str(one.refused or "")]


def _cell(value: float, ratio: float | None, unit: str, is_first: bool) -> str:
    text = str(value) if isinstance(value, int) else f"{value:.1f}"
    return f"{text}{unit}" if is_first or ratio is None else f"{text}{unit} x{ratio:.2f}"
