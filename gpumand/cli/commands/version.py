"""``gpumanctl version``; alone in its module, since defining other commands takes a part of its short time."""

from __future__ import annotations

import click

from gpumand.bus.connection_errors import BusError, BusLost
from gpumand.cli.client import Client
from gpumand.cli.errors import ExitCode, Mismatch, NoBus, interpret
from gpumand.cli.options import Command, GlobalOptions, global_options
from gpumand.cli.output import print_json
from gpumand.cli.session import run_with_blocking_client
from gpumand.version import VERSION


@click.command(cls=Command)
@click.pass_context
def version(ctx: click.Context) -> None:
    """Show the versions of gpumanctl and of the running gpumand."""
    options = global_options(ctx)
    daemon, reason = _daemon_version(ctx, options)
    if options.json:
        return print_json({"gpumanctl": VERSION, "gpumand": daemon})
    from gpumand.cli.render.format import clean

    print(f"gpumanctl {VERSION}\ngpumand {clean(daemon) if daemon else reason}")
    return None


def _daemon_version(ctx: click.Context, options: GlobalOptions) -> tuple[str | None, str]:
    """The daemon's version; or None and the reason why it is unknown, which is not an error here."""

    async def call(client: Client, _: GlobalOptions) -> str:
        return await client.version()

    try:
        return run_with_blocking_client(ctx, call), ""
    except (BusError, BusLost, NoBus, Mismatch) as error:
        failure = interpret(error, options)
        not_running = failure is None or failure.code is ExitCode.NOT_RUNNING
        return None, "(not running)" if not_running else f"(unknown: {failure.message if failure else error})"
