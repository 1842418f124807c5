"""``gpumanctl status`` and ``list``: one snapshot of the daemon's state, whole or only the consumers."""

from __future__ import annotations

import time
from typing import Any

import click

from gpumand.cli.client import Client
from gpumand.cli.options import Command, GlobalOptions, global_options
from gpumand.cli.output import print_json, print_lines, theme_for
from gpumand.cli.session import run_with_blocking_client


async def _status(client: Client, _: GlobalOptions) -> dict[str, Any]:
    return await client.status()


@click.command(cls=Command)
@click.pass_context
def status(ctx: click.Context) -> None:
    """Show devices, consumers, leases and the queue."""
    import sys

    options = global_options(ctx)
    snapshot = run_with_blocking_client(ctx, _status)
    if options.json:
        return print_json(snapshot)
    from gpumand.cli.render.status import status_lines

    return print_lines(status_lines(snapshot, _now_usec(), theme_for(sys.stdout, options)), options)


@click.command("list", cls=Command)
@click.pass_context
def list_consumers(ctx: click.Context) -> None:
    """List the configured consumers."""
    import sys

    options = global_options(ctx)
    consumers = run_with_blocking_client(ctx, _status)["consumers"]
    if options.json:
        return print_json(consumers)
    from gpumand.cli.render.status import list_lines

    return print_lines(list_lines(consumers, _now_usec(), theme_for(sys.stdout, options)), options)


def _now_usec() -> int:
    return time.time_ns() // 1000
