"""``gpumanctl drain`` and ``undrain``: take a host out of a fleet's placement, and put it back."""

from __future__ import annotations

import click

from gpumand.cli.options import Command


@click.command("drain", cls=Command)
@click.argument("host")
@click.pass_context
def drain(ctx: click.Context, host: str) -> None:
    """Send no new requests of the fleet to HOST, for maintenance.

    Its leases go on, and its own clients are served as before. It lasts until undrain. Only root may drain a host.
    """
    from gpumand.cli.fleet.commands import drain as work

    work(ctx, {"host": host})


@click.command("undrain", cls=Command)
@click.argument("host")
@click.pass_context
def undrain(ctx: click.Context, host: str) -> None:
    """Let HOST take requests of the fleet again."""
    from gpumand.cli.fleet.commands import drain as work

    work(ctx, {"host": host})
