"""``config-check``, ``reload``, ``version``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gpumand.bus.connection_errors import BusError, BusLost
from gpumand.cli.client import Client
from gpumand.cli.errors import ExitCode, Mismatch, NoBus, interpret
from gpumand.cli.options import Command, GlobalOptions, global_options
from gpumand.cli.output import print_json
from gpumand.cli.session import ask
from gpumand.version import VERSION


@click.command("config-check", cls=Command)
@click.argument("path", required=False, type=click.Path(path_type=Path))
@click.pass_context
def config_check(ctx: click.Context, path: Path | None) -> None:
    """Check the configuration. Needs no running gpumand.

    PATH is a file or a folder; without it the files in /etc/gpumand are checked, or with --user those in
    ~/.config/gpumand.
    """
    from gpumand.cli.render.format import clean, count
    from gpumand.config import DEFAULT_FILE, ConfigProblems, load, user_folder
    from gpumand.domain.consumer import UNKNOWN_MIB

    options = global_options(ctx)
    try:
        settings = load(path, user=options.user)
    except ConfigProblems as error:
        for problem in error.problems:
            print(clean(str(problem)), file=sys.stderr)
        raise click.exceptions.Exit(ExitCode.FAILURE) from None
    if options.json:
        print_json({"path": str(path) if path else None, "consumers": list(settings.consumers)})
    elif not options.quiet:
        where = path or (user_folder() if options.user else DEFAULT_FILE.parent)
        print(f"The configuration in {clean(where)} is good: {count(len(settings.consumers), 'consumer')}.")
        for name in (one.name for one in settings.consumers.values() if one.vram_resident_mib == UNKNOWN_MIB):
            why = "how much VRAM it needs is nowhere written"
            print(f"{clean(name)}: {why}; it is not lent before gpumand has measured it.")


@click.command(cls=Command)
@click.pass_context
def reload(ctx: click.Context) -> None:
    """Have gpumand read its configuration again."""

    async def question(client: Client, _: GlobalOptions) -> None:
        await client.reload()

    ask(ctx, question)
    if global_options(ctx).json:
        print_json({"reloaded": True})


@click.command(cls=Command)
@click.pass_context
def version(ctx: click.Context) -> None:
    """Show the versions of gpumanctl and of the running gpumand."""
    options = global_options(ctx)
    daemon, why = _daemon_version(ctx, options)
    if options.json:
        return print_json({"gpumanctl": VERSION, "gpumand": daemon})
    from gpumand.cli.render.format import clean

    print(f"gpumanctl {VERSION}\ngpumand {clean(daemon) if daemon else why}")
    return None


def _daemon_version(ctx: click.Context, options: GlobalOptions) -> tuple[str | None, str]:
    """The daemon's version, or None and why it is not known: that is an answer here, and no failure."""

    async def question(client: Client, _: GlobalOptions) -> str:
        return await client.version()

    try:
        return ask(ctx, question), ""
    except (BusError, BusLost, NoBus, Mismatch) as error:
        failure = interpret(error, options)
        not_running = failure is None or failure.code is ExitCode.NOT_RUNNING
        return None, "(not running)" if not_running else f"(unknown: {failure.message if failure else error})"
