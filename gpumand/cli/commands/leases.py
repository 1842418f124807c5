"""``gpumanctl acquire``, ``release`` and ``renew``: leases for shell scripts."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import click

from gpumand.cli import completion
from gpumand.cli.acquire_options import (
    AcquireOptions,
    check_consumer_or_vram,
    nested_lease_options,
    on_option,
    request_options,
    require_fleet,
    restore_flag,
    vram_reservation_options,
    waiting_options,
)
from gpumand.cli.client import Client
from gpumand.cli.consumer_lookup import consumer_entry
from gpumand.cli.durations import DURATION, to_usec
from gpumand.cli.lease_lookup import with_lease
from gpumand.cli.options import Command, GlobalOptions, global_options
from gpumand.cli.output import is_screen, print_json
from gpumand.cli.session import run_with_blocking_client, run_with_client


@click.command(cls=Command)
@click.argument("consumer", required=False, shell_complete=completion.consumers)
@vram_reservation_options
@click.option(
    "--lifetime",
    type=click.Choice(["ttl", "connection", "unit"]),
    default="ttl",
    help="What ends the lease: its time to live (ttl, the default) or the end of the caller's systemd unit (unit).",
)
@click.option("--ttl", type=DURATION, metavar="TIME", help="Time to live, for example 15min. Default: as configured.")
@waiting_options
@request_options
@nested_lease_options
@restore_flag
@on_option
@click.option(
    "--token",
    default="",
    metavar="TEXT",
    help="Idempotency token: repeating the request with it returns the same lease.",
)
@click.pass_context
def acquire(ctx: click.Context, /, consumer: str | None, lifetime: str, **arguments: Any) -> None:
    """Load CONSUMER and take a lease on it. Prints the lease id.

    With --vram or --all, and without a CONSUMER, the lease reserves VRAM for the calling script. With --fleet, the
    lease is held until Ctrl-C, and the host and its endpoint are printed.
    """
    require_fleet(arguments["on"])
    consumer = check_consumer_or_vram(consumer, arguments["vram"], arguments["whole"])
    if lifetime == "connection":
        end = "a lease with --lifetime connection would end together with this command"
        raise click.UsageError(f"{end}; use: gpumanctl run {consumer or '--vram SIZE'} -- COMMAND")
    request = AcquireOptions.from_arguments(lifetime, arguments)

    async def call(client: Client, options: GlobalOptions) -> None:
        from gpumand.cli.acquiring import acquire_lease

        lease, grant, _ = await acquire_lease(client, consumer, request, options)
        _print_lease(lease, grant, options)  # before any further call: if that hangs or fails, the id must not be lost
        if _prints_details(options):
            _print_details(grant, await consumer_entry(client, consumer) if consumer else {})

    run_with_client(ctx, call)


def _prints_details(options: GlobalOptions) -> bool:
    """Whether details of the grant are printed: with ``-v``, or when a person is likely to read stderr."""
    return not options.json and (options.verbose or (is_screen(sys.stderr) and not options.quiet))


def _print_lease(lease: str, grant: dict[str, Any], options: GlobalOptions) -> None:
    """Print the lease id on stdout, for the shell's command substitution."""
    if options.json:
        return print_json({"lease": lease, "grant": grant})
    from gpumand.cli.render.format import clean

    print(clean(lease), flush=True)
    return None


def _print_details(grant: dict[str, Any], consumer: Mapping[str, Any]) -> None:
    """Print the details of the grant on stderr, for people."""
    from gpumand.cli.render.lines import grant_line

    print(grant_line(grant, time.time_ns() // 1000, consumer), file=sys.stderr)


@click.command(cls=Command)
@click.argument("lease", shell_complete=completion.leases)
@click.pass_context
def release(ctx: click.Context, lease: str) -> None:
    """Release LEASE.

    LEASE is a lease id, or its first 4 or more characters. For the name of a consumer, the active leases of the
    consumer are listed and none is released.
    """

    async def call(client: Client, options: GlobalOptions) -> str:
        released, _ = await with_lease(client, lease, ("release",), options, client.release)
        return released

    released = run_with_blocking_client(ctx, call)
    if global_options(ctx).json:
        print_json({"lease": released})


@click.command(cls=Command)
@click.argument("lease", shell_complete=completion.leases)
@click.option("--ttl", type=DURATION, metavar="TIME", help="New time to live, from now. Default: as granted.")
@click.pass_context
def renew(ctx: click.Context, lease: str, ttl: float | None) -> None:
    """Extend LEASE, counted from now.

    LEASE is a lease id, or its first 4 or more characters.
    """
    if ttl is not None and to_usec(ttl) == 0:
        raise click.UsageError("--ttl must be more than 0")

    async def call(client: Client, options: GlobalOptions) -> tuple[str, int]:
        command = ("renew", *(("--ttl", f"{ttl:g}") if ttl is not None else ()))
        return await with_lease(client, lease, command, options, lambda one: client.renew(one, to_usec(ttl or 0.0)))

    renewed, expires_usec = run_with_blocking_client(ctx, call)
    options = global_options(ctx)
    if options.json:
        return print_json({"lease": renewed, "expires_usec": expires_usec})
    if not options.quiet:
        from gpumand.cli.render.format import ahead

        print(f"ends {ahead(expires_usec, time.time_ns() // 1000)}")
    return None
