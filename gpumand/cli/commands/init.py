"""``init``: a starting configuration from what runs on this host; changes nothing but the file it is told to write."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.options import Command, GlobalOptions, global_options

if TYPE_CHECKING:
    from gpumand.config.presets import Preset
    from gpumand.consumers.routes import HttpRoutes
    from gpumand.discovery.host import Host

STDOUT = "-"


@click.command(cls=Command)
@click.option(
    "-o", "--output", metavar="FILE", default=STDOUT, help="Write to this file instead of standard output (-)."
)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.option("--probe", is_flag=True, help="Also ask what was recognised how it is, by its health route.")
@click.option(
    "--source",
    type=click.Choice(["nvml", "simulated", "none"]),
    default="nvml",
    help="Where figures about VRAM come from; nvml is NVIDIA's driver.",
)
@click.pass_context
def init(ctx: click.Context, output: str, force: bool, probe: bool, source: str) -> None:
    """Write a starting configuration from what runs on this host.

    Looks at the units that run, at open TCP ports and at who holds VRAM, and changes nothing. As root it sees more:
    whose ports they are. Needs no running gpumand.
    """
    if output != STDOUT and not force and os.path.lexists(output):
        raise Failure(ExitCode.FAILURE, f"{output} is there already; --force writes over it")
    options = global_options(ctx)
    if options.json:
        raise click.UsageError("--json does not go with init: it writes a configuration, which is TOML")
    logging.getLogger("gpumand").addHandler(logging.NullHandler())  # what could not be seen is told in the file
    text, count = asyncio.run(_made(options, source, probe))
    if output == STDOUT:
        print(text, end="", flush=True)
        return
    _write(Path(output), text, force)
    if not options.quiet:
        found = f"{count} consumer{'' if count == 1 else 's'}"
        print(f"{output}: {found}. Check it with: gpumanctl config-check {output}", file=sys.stderr)


async def _made(options: GlobalOptions, source: str, probe: bool) -> tuple[str, int]:
    """The configuration's text, and how many consumers are in it."""
    from gpumand.config.presets import preset, preset_names
    from gpumand.discovery.matching import findings, likely_ports
    from gpumand.discovery.starter_config import consumer_urls, starting_configuration

    host = await _look(options, source)
    presets = [preset(name) for name in preset_names()]
    found = findings(host, presets)
    probed = await _probe(consumer_urls(found)) if probe else {}
    text = starting_configuration(host, found, likely_ports(host, presets, found), source, probed)
    return text, sum(1 for one in found if one.preset is not None)


async def _look(options: GlobalOptions, source: str) -> Host:
    """Look at the host; without a bus, at what can be seen without one."""
    from gpumand.bus.connection import BusConnection
    from gpumand.bus.connection_errors import BusLost
    from gpumand.discovery.scan import look
    from gpumand.domain.consumer import GpuSettings
    from gpumand.host.clock import SystemClock
    from gpumand.vram import make_source

    figures = make_source(GpuSettings(source=source), SystemClock())
    try:
        bus = await BusConnection.connect(options.bus_address or ("session" if options.user else "system"))
    except BusLost as error:
        return await look(None, figures, f"there is no bus: {error}")
    try:
        return await look(bus, figures)
    finally:
        await bus.close()


async def _probe(places: dict[str, tuple[Preset, str]]) -> dict[str, str]:
    """What each health route answers, in words; only those that have one are asked."""
    from gpumand.consumers.routes import HttpRoutes
    from gpumand.host.clock import SystemClock

    routes = HttpRoutes(SystemClock())
    try:
        answers = await asyncio.gather(*(_asked(routes, name, *place) for name, place in places.items()))
    finally:
        await routes.close()
    return dict(zip(places, answers, strict=True))


async def _asked(routes: HttpRoutes, name: str, preset: Preset, url: str) -> str:
    from gpumand.domain.consumer import ConsumerSpec, HealthRoute

    table = preset.document.table["consumer"].get("health")
    if table is None or "{model}" in str(table):
        return ""
    health = await routes.probe(ConsumerSpec(name, 1, url=url, health=HealthRoute(**table)))
    if not health.reachable:
        return f"did not answer well: {health.error}"
    return "answered" + {None: "", True: " that it is loaded", False: " that it is not loaded"}[health.loaded]


def _write(path: Path, text: str, force: bool) -> None:
    """Write the file; one that came to be meanwhile is not written over either, unless that was asked for."""
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise Failure(ExitCode.FAILURE, f"{path} is there already; --force writes over it") from None
    except OSError as error:
        raise Failure(ExitCode.FAILURE, f"{path} cannot be written: {error.strerror}") from None
