"""``gpumanctl load``, ``evict``, ``pin`` and ``unpin``: manual operations on one consumer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from gpumand.cli import completion
from gpumand.cli.acquire_options import (
    device_option,
    on_option,
    require_fleet,
    resolve_timeout,
    timeout_option,
    waiting_options,
)
from gpumand.cli.client import Client
from gpumand.cli.consumer_lookup import consumer_entry
from gpumand.cli.durations import timeout_usec
from gpumand.cli.options import Command, GlobalOptions, global_options
from gpumand.cli.output import print_json
from gpumand.cli.session import run_with_blocking_client, run_with_client


@click.command(cls=Command)
@click.argument("consumer", shell_complete=completion.consumers)
@device_option
@waiting_options
@on_option
@click.pass_context
def load(ctx: click.Context, consumer: str, device: str, timeout: float | None, wait_mode: str | None, on: str) -> None:
    """Load CONSUMER, evicting others if needed. Takes no lease."""
    require_fleet(on)
    wait_sec = resolve_timeout(timeout, wait_mode)
    call_options = timeout_usec(wait_sec)
    if device:
        call_options["device"] = ("s", device)

    async def call(client: Client, options: GlobalOptions) -> tuple[dict[str, Any], Mapping[str, Any]]:
        from gpumand.cli.progress import with_progress

        outcome = await with_progress(client, consumer, client.load(consumer, call_options, wait_sec), options)
        prints_line = not (options.json or options.quiet)
        return outcome, await consumer_entry(client, consumer) if prints_line else {}

    _print_outcome(ctx, "load_line", *run_with_client(ctx, call))


@click.command(cls=Command)
@click.argument("consumer", shell_complete=completion.consumers)
@click.option("--force", is_flag=True, help="Evict it even if it is leased or pinned; its leases are revoked.")
@timeout_option
@click.pass_context
def evict(ctx: click.Context, consumer: str, force: bool, timeout: float | None) -> None:
    """Evict CONSUMER to free its VRAM."""
    wait_sec = resolve_timeout(timeout, None)
    call_options = timeout_usec(wait_sec)
    if force:
        call_options["force"] = ("b", True)

    async def call(client: Client, options: GlobalOptions) -> dict[str, Any]:
        from gpumand.cli.progress import with_progress

        return await with_progress(client, consumer, client.evict(consumer, call_options, wait_sec), options)

    _print_outcome(ctx, "evict_line", run_with_client(ctx, call))


def _print_outcome(ctx: click.Context, formatter: str, outcome: dict[str, Any], *more: Mapping[str, Any]) -> None:
    """Print the outcome of a call as JSON, or as one line.

    Args:
        ctx: the command's context.
        formatter: name of a function in ``render.lines``, which is imported only when a line is printed.
        outcome: the daemon's reply.
        more: further arguments of the formatter.
    """
    options = global_options(ctx)
    if options.json:
        return print_json(outcome)
    if not options.quiet:
        from gpumand.cli.render import lines

        print(getattr(lines, formatter)(outcome, *more))
    return None


@click.command(cls=Command)
@click.argument("consumer", shell_complete=completion.consumers)
@click.pass_context
def pin(ctx: click.Context, consumer: str) -> None:
    """Protect CONSUMER from eviction until it is unpinned."""
    _set_pinned(ctx, consumer, True)


@click.command(cls=Command)
@click.argument("consumer", shell_complete=completion.consumers)
@click.pass_context
def unpin(ctx: click.Context, consumer: str) -> None:
    """Allow CONSUMER to be evicted again."""
    _set_pinned(ctx, consumer, False)


def _set_pinned(ctx: click.Context, consumer: str, pinned: bool) -> None:
    async def call(client: Client, _: GlobalOptions) -> None:
        await client.pin(consumer, pinned)

    run_with_blocking_client(ctx, call)
    if global_options(ctx).json:
        print_json({"consumer": consumer, "pinned": pinned})
