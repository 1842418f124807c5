"""``gpumanctl init``: writes a starter configuration for the services that run on this host."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.options import Command, GlobalOptions, global_options

if TYPE_CHECKING:
    from gpumand.config.presets import Preset
    from gpumand.consumers.routes import HttpRoutes
    from gpumand.discovery.server_models import ServerModels

STDOUT = "-"


@click.command(cls=Command)
@click.option("-o", "--output", metavar="FILE", default=STDOUT, help="Output file. Default: standard output (-).")
@click.option(
    "--force", is_flag=True, help="Overwrite an existing file; with --undo, also restart services that are in use."
)
@click.option(
    "--probe/--no-probe",
    default=None,
    help="Also call the health routes of recognised services, or send nothing to them. Default: ask only for models.",
)
@click.option(
    "--source",
    type=click.Choice(["auto", "nvml", "amdgpu", "xe", "simulated", "none"]),
    default="auto",
    help="Source of VRAM readings. Default: the drivers that the host has (auto).",
)
@click.option(
    "--gateway",
    is_flag=True,
    help="Propose instead the swap of ports by which the configured services get behind gpumand-gateway.",
)
@click.option(
    "--undo",
    is_flag=True,
    help="Move the services back to their ports, as they were before the gateway. It asks first.",
)
@click.option("--dry-run", is_flag=True, help="With --gateway or --undo: print what would be done, and do nothing.")
@click.option(
    "--yes",
    is_flag=True,
    help="With --gateway: write the proposed files; nothing is started or restarted. With --undo: ask nothing.",
)
@click.pass_context
def init(
    ctx: click.Context,
    /,
    output: str,
    force: bool,
    probe: bool | None,
    source: str,
    **swap: bool,
) -> int | None:
    """Generate a configuration from the running services.

    Scans the running units, the open TCP ports and the processes that hold VRAM, asks recognised servers for their
    models, and changes nothing but the output file. Reading the GPUs wakes a card that sleeps. What is missing or was
    only guessed is a comment. Run it as root to identify the processes behind all ports. Needs no running gpumand.

    With --gateway, each configured service moves to another port, by a drop-in of its unit, and the gateway listens at
    the old one, so that its clients need not be changed. --undo takes that back, also what gpumanctl setup has moved:
    files get their former content, and services that run are restarted. Lines that were edited since are not touched,
    and services that are leased or at work stay until they are idle. It can be repeated after an interruption.
    """
    if swap["gateway"] or swap["undo"]:
        return _swap(ctx, is_forced=force, **swap)
    if swap["yes"] or swap["dry_run"]:
        option = "--yes" if swap["yes"] else "--dry-run"
        what = "without them, init writes only the file of --output"
        raise click.UsageError(f"{option} needs --gateway or --undo; {what}")
    if output != STDOUT and not force and os.path.lexists(output):
        raise Failure(ExitCode.FAILURE, f"{output} exists already. Overwrite it with --force, or choose another file")
    options = global_options(ctx)
    if options.json:
        raise click.UsageError("--json does not work with init: its output is a configuration in TOML")
    logging.getLogger("gpumand").addHandler(logging.NullHandler())  # failed reads become comments in the file
    text, consumers = asyncio.run(_generate(options, source, probe))
    if output == STDOUT:
        print(text, end="", flush=True)
        return None
    _write(Path(output), text, force)
    if not options.quiet:
        from gpumand.cli.render.format import count
        from gpumand.discovery.missing_keys import missing_keys

        missing = missing_keys(text)
        what = f"{count(consumers, 'consumer')}" + (f"; missing: {', '.join(missing)}" if missing else "")
        line = f"{output}: {what}. Check it with: gpumanctl config-check {output}"
        print(line, file=sys.stderr)
    return None


def _swap(ctx: click.Context, *, gateway: bool, undo: bool, yes: bool, dry_run: bool, is_forced: bool) -> int:
    """``init --gateway`` and ``init --undo``."""
    if gateway and undo:
        raise click.UsageError("--gateway and --undo do not go together")
    if not undo:
        _swap_ports(ctx, yes and not dry_run)
        return ExitCode.OK
    from gpumand.cli.swap_undo.command import undo as take_back

    options = global_options(ctx)
    if options.user or options.json:
        raise click.UsageError(f"--undo does not go with {'--user' if options.user else '--json'}")
    return take_back(options, is_confirmed=yes, is_dry_run=dry_run, is_forced=is_forced)


def _swap_ports(ctx: click.Context, is_confirmed: bool) -> None:
    """``init --gateway``."""
    from gpumand.cli.gateway_setup import YES, Places, apply, propose
    from gpumand.cli.render.format import clean
    from gpumand.cli.render.gateway_setup import proposal_lines
    from gpumand.cli.swap_undo.lock import alone
    from gpumand.config import ConfigProblems

    options, places = global_options(ctx), Places()
    if options.user:
        raise click.UsageError("--gateway is for services of the system; move those of a user yourself")
    # Locked before the files are read: an undo in between would be overwritten.
    with alone(places.lock, YES) if is_confirmed else nullcontext():
        try:
            proposal = asyncio.run(propose(options.bus_address or "system", places))
        except ConfigProblems as error:
            for problem in error.problems:
                print(clean(str(problem)), file=sys.stderr)
            raise click.exceptions.Exit(ExitCode.FAILURE) from None
        if is_confirmed:
            apply(proposal)
    print("\n".join(proposal_lines(proposal, places, is_applied=is_confirmed)))


async def _generate(options: GlobalOptions, source: str, probe: bool | None) -> tuple[str, int]:
    """The text of the configuration and the number of its consumers."""
    from gpumand.cli.host_scan import ask_servers, scan_this_host
    from gpumand.config.presets import preset, preset_names
    from gpumand.discovery.matching import find_candidates, likely_ports
    from gpumand.discovery.roles import with_role
    from gpumand.discovery.starter_config import consumer_urls, starting_configuration
    from gpumand.domain.gpu_settings import GpuSettings

    sources = _present_sources() if source == "auto" else (source,)
    host = await scan_this_host(options, GpuSettings(source=sources or ("auto",)))
    presets = [preset(name) for name in preset_names()]
    found = find_candidates(host, presets)
    models: dict[str, ServerModels] = {}
    if probe is False:
        found = [with_role(candidate, "", None, False) for candidate in found]
    else:
        found, models = await ask_servers(host, found)
    probed = await _probe_health(consumer_urls(found)) if probe else {}
    text = starting_configuration(host, found, likely_ports(host, presets, found), sources, probed, models)
    return text, sum(1 for one in found if one.preset is not None)


def _present_sources() -> tuple[str, ...]:
    from gpumand.vram import FACTORIES
    from gpumand.vram.detection import host_root, known_sources

    return known_sources(host_root(), FACTORIES)


async def _probe_health(places: dict[str, tuple[Preset, str]]) -> dict[str, str]:
    """The answer of each health route as text, by consumer; empty for a preset without a health route."""
    from gpumand.consumers.routes import HttpRoutes
    from gpumand.host.clock import SystemClock

    routes = HttpRoutes(SystemClock())
    try:
        answers = await asyncio.gather(*(_health_answer(routes, name, *place) for name, place in places.items()))
    finally:
        await routes.close()
    return dict(zip(places, answers, strict=True))


async def _health_answer(routes: HttpRoutes, name: str, preset: Preset, url: str) -> str:
    from gpumand.domain.consumer import ConsumerSpec, HealthRoute

    table = preset.consumer("").get("health")
    if table is None:
        return ""
    health = await routes.probe_health(ConsumerSpec(name, 1, url=url, health=HealthRoute(**table)))
    if not health.reachable:
        return f"failed: {health.error}"
    return "ok" + {None: "", True: ", model loaded", False: ", model not loaded"}[health.loaded]


def _write(path: Path, text: str, force: bool) -> None:
    """Write the file. Without ``force``, a file that was created during the scan is not overwritten either."""
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise Failure(
            ExitCode.FAILURE, f"{path} exists already. Overwrite it with --force, or choose another file"
        ) from None
    except OSError as error:
        raise Failure(ExitCode.FAILURE, f"cannot write {path}: {error.strerror}") from None
