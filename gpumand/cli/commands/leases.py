"""``acquire``, ``release``, ``renew``: leases from a shell."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import click

from gpumand.cli import completion
from gpumand.cli.acquire_options import RequestOptions, asking_options, waiting_options
from gpumand.cli.client import Client
from gpumand.cli.consumer_lookup import entry_of
from gpumand.cli.durations import DURATION, to_usec
from gpumand.cli.options import Command, GlobalOptions, global_options
from gpumand.cli.output import is_screen, print_json
from gpumand.cli.progress import watched
from gpumand.cli.session import ask


@click.command(cls=Command)
@click.argument("consumer", shell_complete=completion.consumers)
@click.option(
    "--lifetime",
    type=click.Choice(["ttl", "connection", "unit"]),
    default="ttl",
    help="What ends the lease: its time (the default), or the end of the systemd unit this runs in.",
)
@click.option("--ttl", type=DURATION, metavar="TIME", help="How long it lasts, for example 15min; default: configured.")
@waiting_options
@asking_options
@click.option("--token", default="", metavar="TEXT", help="Asking again with the same token gives the same lease.")
@click.pass_context
def acquire(ctx: click.Context, /, consumer: str, lifetime: str, **typed: Any) -> None:
    """Make CONSUMER resident and take a lease on it. Prints the id of the lease."""
    if lifetime == "connection":
        end = "a lease of lifetime connection would end with this very command"
        raise click.UsageError(f"{end}; use: gpumanctl run {consumer} -- COMMAND")
    wish = RequestOptions.of(lifetime, typed)

    async def question(client: Client, options: GlobalOptions) -> None:
        asking = client.acquire(consumer, wish.options(), wish.timeout_sec)
        lease, grant = await watched(client, consumer, asking, options)
        _tell(lease, grant, options)  # before anything else is asked: nobody knows the lease by another way
        if _is_explained(options):
            _explain(grant, await entry_of(client, consumer))

    ask(ctx, question)


def _is_explained(options: GlobalOptions) -> bool:
    """Whether somebody is there to whom more than the id is told."""
    return not options.json and (options.verbose or (is_screen(sys.stderr) and not options.quiet))


def _tell(lease: str, grant: dict[str, Any], options: GlobalOptions) -> None:
    """The id on stdout, so that a shell can take it."""
    if options.json:
        return print_json({"lease": lease, "grant": grant})
    from gpumand.cli.render.format import clean

    print(clean(lease), flush=True)
    return None


def _explain(grant: dict[str, Any], consumer: Mapping[str, Any]) -> None:
    """What else is worth knowing, on stderr, for people."""
    from gpumand.cli.render.lines import grant_line

    print(grant_line(grant, time.time_ns() // 1000, consumer), file=sys.stderr)


@click.command(cls=Command)
@click.argument("lease", shell_complete=completion.leases)
@click.pass_context
def release(ctx: click.Context, lease: str) -> None:
    """End LEASE."""

    async def question(client: Client, _: GlobalOptions) -> None:
        await client.release(lease)

    ask(ctx, question)
    if global_options(ctx).json:
        print_json({"lease": lease})


@click.command(cls=Command)
@click.argument("lease", shell_complete=completion.leases)
@click.option("--ttl", type=DURATION, metavar="TIME", help="For how long from now; default: as it was granted.")
@click.pass_context
def renew(ctx: click.Context, lease: str, ttl: float | None) -> None:
    """Give LEASE more time, counted from now."""
    if ttl is not None and to_usec(ttl) == 0:
        raise click.UsageError("--ttl must be more than 0")

    async def question(client: Client, _: GlobalOptions) -> int:
        return await client.renew(lease, to_usec(ttl or 0.0))

    expires_usec = ask(ctx, question)
    options = global_options(ctx)
    if options.json:
        return print_json({"lease": lease, "expires_usec": expires_usec})
    if not options.quiet:
        from gpumand.cli.render.format import ahead

        print(f"ends {ahead(expires_usec, time.time_ns() // 1000)}")
    return None
