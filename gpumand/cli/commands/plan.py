"""``gpumanctl plan``: shows what an Acquire would do now, and why."""

from __future__ import annotations

import sys
from typing import Any

import click

from gpumand.cli import completion
from gpumand.cli.acquire_options import (
    check_consumer_or_vram,
    device_option,
    on_option,
    priority_option,
    require_fleet,
    vram_reservation_options,
)
from gpumand.cli.client import Client
from gpumand.cli.options import Command, GlobalOptions, global_options
from gpumand.cli.output import print_json, print_lines, theme_for
from gpumand.cli.session import run_with_blocking_client
from gpumand.client.options import vram_options


@click.command(cls=Command)
@click.argument("consumer", required=False, shell_complete=completion.consumers)
@vram_reservation_options
@priority_option
@device_option
@on_option
@click.pass_context
def plan(
    ctx: click.Context, consumer: str | None, vram: int | None, whole: bool, priority: int | None, device: str, on: str
) -> None:
    """Show what acquiring CONSUMER would do, and why. Changes nothing.

    With --vram or --all, and without a CONSUMER, the request is for VRAM alone.
    """
    require_fleet(on)
    name = check_consumer_or_vram(consumer, vram, whole)
    call_options = vram_options(vram, whole)
    if priority is not None:
        call_options["priority"] = ("i", priority)
    if device:
        call_options["device"] = ("s", device)

    async def call(client: Client, _: GlobalOptions) -> dict[str, Any]:
        return await client.plan(name, call_options)

    options = global_options(ctx)
    report = run_with_blocking_client(ctx, call)
    if options.json:
        return print_json(report)
    from gpumand.cli.render.plan import plan_lines

    return print_lines(plan_lines(report, theme_for(sys.stdout, options)), options)
