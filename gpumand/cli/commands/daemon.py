"""``gpumanctl config-check`` and ``reload``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gpumand.cli.client import Client
from gpumand.cli.errors import ExitCode
from gpumand.cli.options import Command, GlobalOptions, global_options
from gpumand.cli.output import print_json
from gpumand.cli.session import run_with_blocking_client

if TYPE_CHECKING:
    from gpumand.domain.consumer import Settings

FLEET_FILE = "fleet.toml"


@click.command("config-check", cls=Command)
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.pass_context
def config_check(ctx: click.Context, path: Path | None) -> None:
    """Check the configuration. Needs no running gpumand.

    PATH is a file or a folder. Default: /etc/gpumand, or with --user ~/.config/gpumand. A file fleet.toml, as PATH or
    in /etc/gpumand, is checked as the configuration of gpumand-fleet. Errors are printed with file, line and key. A
    valid configuration may still get warnings, which do not change the exit status: consumers that share a server and
    cannot be distinguished, units that systemd does not know, and footprints that fit on no device of the running
    gpumand.
    """
    from gpumand.cli.render.format import clean
    from gpumand.config import ConfigProblems, load

    options = global_options(ctx)
    if path is not None and path.name == FLEET_FILE:
        from gpumand.cli.fleet_check import check_fleet_file

        return check_fleet_file(path, options)
    try:
        settings = load(path, user=options.user)
        fleet = _check_fleet(path, options)
    except ConfigProblems as error:
        for problem in error.problems:
            print(clean(str(problem)), file=sys.stderr)
        raise click.exceptions.Exit(ExitCode.FAILURE) from None
    return _print_valid(path, options, settings, [*_warnings(options, settings), *fleet])


def _print_valid(path: Path | None, options: GlobalOptions, settings: Settings, warnings: list[str]) -> None:
    """Print that a configuration is valid, with its warnings and the consumers whose VRAM requirement is unknown."""
    from gpumand.cli.render.format import clean, count
    from gpumand.config import DEFAULT_FILE, user_folder
    from gpumand.domain.consumer import UNKNOWN_MIB

    if options.json:
        document = {"path": str(path) if path else None, "consumers": list(settings.consumers)}
        return print_json(document | ({"warnings": warnings} if warnings else {}))
    for one in warnings:
        print(f"warning: {clean(one)}.", file=sys.stderr)
    if not options.quiet:
        where = path or (user_folder() if options.user else DEFAULT_FILE.parent)
        print(f"The configuration in {clean(where)} is valid: {count(len(settings.consumers), 'consumer')}.")
        for name in (one.name for one in settings.consumers.values() if one.vram_resident_mib == UNKNOWN_MIB):
            why = "its VRAM requirement is unknown, so it cannot be leased until gpumand has measured it"
            print(f"{clean(name)}: {why}. Set vram_resident_mib or vram_guess_mib.")
    return None


def _check_fleet(path: Path | None, options: GlobalOptions) -> list[str]:
    """The warnings about the configuration of the fleet, if this host has one. Raises ConfigProblems."""
    from gpumand.config import DEFAULT_FILE

    file = DEFAULT_FILE.parent / FLEET_FILE
    if path is not None or options.user or not file.exists():
        return []
    from gpumand.cli.fleet_check import fleet_warnings

    return fleet_warnings(file)


def _warnings(options: GlobalOptions, settings: Settings) -> list[str]:
    import asyncio

    from gpumand.cli.config_findings import ask_host, findings

    return findings(settings, asyncio.run(ask_host(options, settings)))


@click.command(cls=Command)
@click.pass_context
def reload(ctx: click.Context) -> None:
    """Reload the configuration of the running gpumand."""

    async def call(client: Client, _: GlobalOptions) -> None:
        await client.reload()

    run_with_blocking_client(ctx, call)
    if global_options(ctx).json:
        print_json({"reloaded": True})
