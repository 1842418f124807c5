"""``simulate``."""

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
    from gpumand.simulation.host import Host
    from gpumand.simulation.report import Figures

KINDS = ("zipf", "burst", "session", "pipeline", "roundrobin")
POLICIES = ("lru", "adaptive", "adaptive+overlap")
SETTINGS = {
    "cushion": "cushion_mib",
    "concurrent_leases": "concurrent_leases",
    "aging": "aging_sec",
    "overtake_budget": "overtake_budget_sec",
}
"""Options, and what of ``[scheduler]`` they are."""


@click.command(cls=Command)
@click.argument("demand", required=False, type=click.Path(path_type=Path))
@click.option(
    "--consumers",
    type=click.Path(path_type=Path),
    help="TOML file with the devices, the consumers, and how long these take to load and unload; or the daemon's own "
    "configuration, for which these times are guessed.",
)
@click.option("--device-mib", type=click.IntRange(1, 2**24), multiple=True, help="Size of a device, one for each.")
@click.option("--generate", type=click.Choice(KINDS), help="Make demand of this kind, with consumers to match.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of what is generated (default 0).")
@click.option("--requests", type=click.IntRange(1, 1_000_000), help="How many requests are generated.")
@click.option("--policy", "policies", multiple=True, type=click.Choice(POLICIES), help="Default: all, lru first.")
@click.option("--overtake-budget", type=click.FloatRange(0, 86400), metavar="SEC", help="Default 30.")
@click.option("--aging", type=click.FloatRange(0.1, 86400), metavar="SEC", help="Default 120.")
@click.option("--cushion", type=click.IntRange(0, 2**24), metavar="MIB", help="Default 256.")
@click.option("--concurrent-leases", type=click.IntRange(0, 1024), metavar="N", help="Default 1.")
@click.option(
    "--slowdown",
    type=click.FloatRange(0, 10),
    default=0.0,
    help="How much longer work takes while something is loaded beside it: 0.2 = a fifth (default 0).",
)
@click.pass_context
def simulate(ctx: click.Context, /, **chosen: Any) -> None:
    """Replay demand against one policy after the other.

    Runs in virtual time and needs no running gpumand.

    DEMAND is a file of JSON lines with t, consumer, hold_sec and perhaps client and priority, as the daemon writes it
    with [history] demand_log; --consumers describes what it asks for. Or make some with --generate. Defaults are those
    of the daemon's configuration where --consumers is one.
    """
    from gpumand.domain.consumer import Overlap
    from gpumand.simulation.engine import Engine
    from gpumand.simulation.outcome import World
    from gpumand.simulation.report import figures_of, settings_for

    given = {setting: chosen[option] for option, setting in SETTINGS.items() if chosen[option] is not None}
    results: list[tuple[str, Figures]] = []
    for name in chosen["policies"] or POLICIES:
        host, demand = _scene(chosen)  # anew for each: users who wait for answers remember where they are
        settings = settings_for(name, replace(host.settings, overlap=Overlap.OFF, **given))
        outcome = Engine(host, settings, demand, World(chosen["slowdown"])).run()
        results.append((name, figures_of(outcome)))
    if chosen["demand"] is not None and not global_options(ctx).quiet:
        _tell_left_out(host, chosen["demand"])
    _show(ctx, results)


def _scene(chosen: dict[str, Any]) -> tuple[Host, Demand]:
    """What is to be simulated. Raises click.UsageError."""
    if (chosen["demand"] is None) == (chosen["generate"] is None):
        raise click.UsageError("either a file with demand or --generate is needed")
    if chosen["generate"] is not None:
        if chosen["consumers"] is not None or chosen["device_mib"]:
            raise click.UsageError("--generate brings its own host: leave out --consumers and --device-mib")
        from gpumand.simulation.generate import GENERATORS

        more = {"requests": chosen["requests"]} if chosen["requests"] else {}
        scene = GENERATORS[chosen["generate"]](chosen["seed"], **more)
        return scene.host, scene.demand
    if chosen["consumers"] is None:
        raise click.UsageError("--consumers is needed: how long do they take to load?")
    host = _host(chosen["consumers"])
    sizes = tuple(chosen["device_mib"]) or host.total_mib
    return replace(host, total_mib=sizes), _demand(chosen["demand"], chosen["consumers"], host)


def _host(path: Path) -> Host:
    from gpumand.config import ConfigProblems, load
    from gpumand.simulation import host

    try:
        text = "" if path.is_dir() else path.read_text()  # a folder is a configuration as the daemon takes it
        return host.read(text) if text and host.has_times(text) else host.guessed(load(path, _not_measured))
    except RecursionError:
        raise click.UsageError(f"{path} is nested too deeply") from None
    except (ValueError, OSError) as error:
        raise click.UsageError(f"{path}: {error}") from None
    except ConfigProblems as error:
        raise click.UsageError(str(error.problems[0])) from None


def _not_measured(spec: ConsumerSpec) -> int:
    if spec.vram_managed:
        return 1  # it is left out anyhow
    raise ValueError(f"consumers.{spec.name}.vram_resident_mib is missing: nothing that was measured is looked at here")


def _demand(path: Path, consumers: Path, host: Host) -> Demand:
    from gpumand.simulation.demand import OpenDemand

    uses = _uses(path)
    strangers = {use.consumer for use in uses} - host.consumers.keys() - host.managed
    if strangers:
        raise click.UsageError(f"{consumers} has no consumer {min(strangers)!r}, which {path} asks for")
    return OpenDemand([use for use in uses if use.consumer not in host.managed])


def _uses(path: Path) -> list[Use]:
    from gpumand.simulation import demand

    try:
        with path.open() as lines:
            return demand.read(lines, str(path))
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{path}: is no text: {error}") from None
    except (ValueError, OSError) as error:
        raise click.UsageError(str(error)) from None


def _tell_left_out(host: Host, path: Path) -> None:
    """What is asked of those that run their own memory is no part of the figures, and that is told."""
    left_out = [use.consumer for use in _uses(path) if use.consumer in host.managed]
    if left_out:
        names = ", ".join(sorted(set(left_out)))
        print(f"{len(left_out)} of its uses are left out, for vram_managed is true: {names}", file=sys.stderr)


def _show(ctx: click.Context, results: list[tuple[str, Figures]]) -> None:
    first = results[0][1]
    options = global_options(ctx)
    if options.json:
        objects = [one.as_json(name, first if len(results) > 1 else None) for name, one in results]
        return print_json({"policies": objects})
    from gpumand.cli.output import look_of, print_lines
    from gpumand.cli.render.table import Column, table

    columns = [
        Column("POLICY"),
        Column("MEAN WAIT", right=True),
        Column("P50", right=True, wanted=4),
        Column("P95", right=True, wanted=1),
        Column("P99", right=True, wanted=3),
        Column("WORST", right=True, wanted=1),
        Column("TOTAL", right=True, wanted=5),
        Column("EVICTIONS", right=True, wanted=2),
        Column("LOADING", right=True, wanted=2),
        Column("REQUESTS", right=True, wanted=3),
        Column("REFUSED", right=True, wanted=1),
    ]
    rows = [_row(name, one, first) for name, one in results]
    return print_lines(table(columns, rows, look_of(sys.stdout, options)), options)


def _row(name: str, one: Figures, first: Figures) -> list[str]:
    waits = ("mean_wait_sec", "p50", "p95", "p99", "max_wait_sec", "total_wait_sec")
    cells = [_cell(getattr(one, key), one.of(first)[key], " s", one is first) for key in waits]
    cells.append(_cell(one.evictions, one.of(first)["evictions"], "", one is first))
    cells.append(_cell(one.load_seconds, one.of(first)["load_seconds"], " s", one is first))
    return [name, *cells, str(one.requests), str(one.refused or "")]


def _cell(value: float, ratio: float | None, unit: str, is_first: bool) -> str:
    text = str(value) if isinstance(value, int) else f"{value:.1f}"
    return f"{text}{unit}" if is_first or ratio is None else f"{text}{unit} x{ratio:.2f}"
