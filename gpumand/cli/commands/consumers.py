"""``load``, ``evict``, ``pin``, ``unpin``: by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from gpumand.cli import completion
from gpumand.cli.acquire_options import device_option, timeout_of, timeout_option, waiting_options
from gpumand.cli.client import Client
from gpumand.cli.consumer_lookup import entry_of
from gpumand.cli.durations import to_usec
from gpumand.cli.options import Command, GlobalOptions, global_options
from gpumand.cli.output import print_json
from gpumand.cli.progress import watched
from gpumand.cli.session import ask


@click.command(cls=Command)
@click.argument("consumer", shell_complete=completion.consumers)
@device_option
@waiting_options
@click.pass_context
def load(ctx: click.Context, consumer: str, device: str, timeout: float | None, patience: str | None) -> None:
    """Make CONSUMER resident, evicting where needed. Takes no lease."""
    wait_sec = timeout_of(timeout, patience)
    wish: dict[str, tuple[str, Any]] = {"timeout_usec": ("t", to_usec(wait_sec))}
    if device:
        wish["device"] = ("s", device)

    async def question(client: Client, options: GlobalOptions) -> tuple[dict[str, Any], Mapping[str, Any]]:
        outcome = await watched(client, consumer, client.load(consumer, wish, wait_sec), options)
        is_told = not (options.json or options.quiet)
        return outcome, await entry_of(client, consumer) if is_told else {}

    _tell(ctx, "load_line", *ask(ctx, question))


@click.command(cls=Command)
@click.argument("consumer", shell_complete=completion.consumers)
@click.option("--force", is_flag=True, help="Also while leases stand on it or it is pinned; the leases are revoked.")
@timeout_option
@click.pass_context
def evict(ctx: click.Context, consumer: str, force: bool, timeout: float | None) -> None:
    """Take the VRAM of CONSUMER back now."""
    wait_sec = timeout_of(timeout, None)
    wish: dict[str, tuple[str, Any]] = {"timeout_usec": ("t", to_usec(wait_sec))}
    if force:
        wish["force"] = ("b", True)

    async def question(client: Client, options: GlobalOptions) -> dict[str, Any]:
        return await watched(client, consumer, client.evict(consumer, wish, wait_sec), options)

    _tell(ctx, "evict_line", ask(ctx, question))


def _tell(ctx: click.Context, teller: str, outcome: dict[str, Any], *more: Mapping[str, Any]) -> None:
    """The outcome as JSON, or as one line, for which there may be more to know."""
    options = global_options(ctx)
    if options.json:
        return print_json(outcome)
    if not options.quiet:
        from gpumand.cli.render import lines

        print(getattr(lines, teller)(outcome, *more))
    return None


@click.command(cls=Command)
@click.argument("consumer", shell_complete=completion.consumers)
@click.pass_context
def pin(ctx: click.Context, consumer: str) -> None:
    """Never evict CONSUMER to make room, until it is unpinned."""
    _set_pinned(ctx, consumer, True)


@click.command(cls=Command)
@click.argument("consumer", shell_complete=completion.consumers)
@click.pass_context
def unpin(ctx: click.Context, consumer: str) -> None:
    """Let CONSUMER be evicted again."""
    _set_pinned(ctx, consumer, False)


def _set_pinned(ctx: click.Context, consumer: str, pinned: bool) -> None:
    async def question(client: Client, _: GlobalOptions) -> None:
        await client.pin(consumer, pinned)

    ask(ctx, question)
    if global_options(ctx).json:
        print_json({"consumer": consumer, "pinned": pinned})
