"""``plan``: what Acquire would do now, and why."""

from __future__ import annotations

import sys
from typing import Any

import click

from gpumand.cli import completion
from gpumand.cli.acquire_options import device_option, priority_option
from gpumand.cli.client import Client
from gpumand.cli.options import Command, GlobalOptions, global_options
from gpumand.cli.output import look_of, print_json, print_lines
from gpumand.cli.session import ask


@click.command(cls=Command)
@click.argument("consumer", shell_complete=completion.consumers)
@priority_option
@device_option
@click.pass_context
def plan(ctx: click.Context, consumer: str, priority: int | None, device: str) -> None:
    """Show what acquiring CONSUMER would do, and why. Changes nothing."""
    wish: dict[str, tuple[str, Any]] = {}
    if priority is not None:
        wish["priority"] = ("i", priority)
    if device:
        wish["device"] = ("s", device)

    async def question(client: Client, _: GlobalOptions) -> dict[str, Any]:
        return await client.plan(consumer, wish)

    options = global_options(ctx)
    report = ask(ctx, question)
    if options.json:
        return print_json(report)
    from gpumand.cli.render.plan import plan_lines

    return print_lines(plan_lines(report, look_of(sys.stdout, options)), options)
