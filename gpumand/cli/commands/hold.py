"""``gpumanctl hold``: keeps VRAM free until Ctrl-C, for programs that are started elsewhere."""

from __future__ import annotations

import asyncio
import math
import signal
import sys
from collections.abc import Mapping
from typing import Any

import click

from gpumand.cli.acquire_options import (
    AcquireOptions,
    nested_lease_options,
    request_options,
    vram_reservation_options,
    waiting_options,
)
from gpumand.cli.acquiring import acquire_lease
from gpumand.cli.client import Client
from gpumand.cli.commands.run import describe_waiting, release_quietly
from gpumand.cli.durations import DURATION
from gpumand.cli.errors import ExitCode
from gpumand.cli.options import Command, GlobalOptions, global_options
from gpumand.cli.output import print_json, print_lines, theme_for
from gpumand.cli.session import connected
from gpumand.client.lease_watch import BUS_LOST, FORGOTTEN, LeaseWatch

ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command(cls=Command)
@vram_reservation_options
@click.option("--for", "duration", type=DURATION, metavar="TIME", help="End after this time, for example 2h.")
@waiting_options
@request_options
@nested_lease_options
@click.pass_context
def hold(ctx: click.Context, /, duration: float | None, **arguments: Any) -> int:
    """Reserve VRAM until Ctrl-C, or for a time.

    Without --vram the whole GPU is reserved. Without --for the reservation ends with Ctrl-C.

    Prints what was evicted and what is free. Use run for a program that gpumanctl can start: only then does the memory
    of the program count against the reservation.
    """
    if arguments["vram"] and arguments["whole"]:
        raise click.UsageError("--vram and --all exclude each other; give only one of them")
    if duration == 0:
        raise click.UsageError("--for must be more than 0")
    arguments["whole"] = not arguments["vram"]
    request = AcquireOptions.from_arguments("connection", arguments)
    return asyncio.run(_hold(request, duration, global_options(ctx)))


async def _hold(request: AcquireOptions, duration: float | None, options: GlobalOptions) -> int:
    async with connected(options) as client:
        watch = LeaseWatch(client, return_sec=math.inf)  # a stopped daemon keeps leases and may start again
        await watch.listen()
        lease, grant, request = await acquire_lease(client, "", request, options)
        if not options.quiet:
            watch.wanted.on_request(lambda by: print(f"gpumanctl: {describe_waiting(by)}", file=sys.stderr, flush=True))
        watch.follow(lease)
        ended = catch_signals()
        await _print_grant(client, lease, grant, duration, options)
        lost = asyncio.ensure_future(watch.ended.wait())
        either: list[asyncio.Future[Any]] = [ended, lost]
        try:
            await asyncio.wait(either, timeout=duration, return_when=asyncio.FIRST_COMPLETED)
            if not lost.done():
                await release_quietly(client, lease)
                return ExitCode.OK
            why = {BUS_LOST: client.connection.lost_reason, FORGOTTEN: "gpumand restarted without it"}
            print(f"gpumanctl: the reservation was lost: {why.get(lost.result(), lost.result())}", file=sys.stderr)
            return ExitCode.FAILURE
        finally:
            lost.cancel()
            await watch.stop()


def catch_signals() -> asyncio.Future[None]:
    """A future that a signal ends: from now on Ctrl-C is the regular end, and no error."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def end() -> None:
        if not ended.done():
            ended.set_result(None)

    for number in ENDING_SIGNALS:
        loop.add_signal_handler(number, end)
    return ended


async def _print_grant(
    client: Client, lease: str, grant: Mapping[str, Any], duration: float | None, options: GlobalOptions
) -> None:
    if options.json:
        return print_json({"lease": lease, "grant": grant})
    from gpumand.cli.render.hold import hold_lines

    lines = hold_lines(lease, grant, await client.status(), duration, theme_for(sys.stdout, options))
    return print_lines(lines, options._replace(pager=False))  # a pager would wait for a key while the time runs
