"""``gpumanctl monitor``: prints the daemon's signals as they arrive."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from gpumand.bus.connection_errors import BusLost
from gpumand.bus.signal_arguments import SIGNAL_ARGUMENTS
from gpumand.cli.client import Client
from gpumand.cli.options import Command, GlobalOptions
from gpumand.cli.session import run_with_client

if TYPE_CHECKING:
    from gpumand.bus.connection import Signal

Event = dict[str, Any]

ARGUMENTS = {**SIGNAL_ARGUMENTS, "PropertiesChanged": ("interface", "changed", "invalidated")}


@click.command(cls=Command)
@click.pass_context
def monitor(ctx: click.Context) -> None:
    """Print the signals of gpumand until Ctrl-C."""
    run_with_client(ctx, _watch)


async def _watch(client: Client, options: GlobalOptions) -> None:
    """Print signals in their order; BusLost when the connection breaks."""
    signals: asyncio.Queue[Signal | None] = asyncio.Queue()
    # Subscribe before the first call, so that no signal after its reply is missed.
    await client.listen(signals.put_nowait)
    version = await client.version()
    if sys.stderr.isatty() and not options.quiet and not options.json:
        print(f"Watching gpumand {version}. Stop with Ctrl-C.", file=sys.stderr)
    loss = asyncio.ensure_future(client.connection.wait_lost())
    # None wakes the loop below when the connection breaks: no further signal would do that.
    loss.add_done_callback(lambda _: signals.put_nowait(None))
    while (signal := await signals.get()) is not None:
        _print(event_of(signal, time.time_ns() // 1000), options)
    raise BusLost(client.connection.lost_reason)


def event_of(signal: Signal, now_usec: int) -> Event:
    """Convert a signal to a dictionary with named arguments.

    Args:
        signal: a signal of gpumand, or NameOwnerChanged of its name.
        now_usec: the current time in microseconds.
    """
    event: Event = {"time_usec": now_usec, "signal": signal.member}
    if signal.member == "NameOwnerChanged":
        return event | {"running": bool(signal.body[2])}
    if signal.member == "PropertiesChanged":
        event["object"] = signal.path
    names = ARGUMENTS.get(signal.member, ())
    if len(names) > len(signal.body) or not names:
        return event | {"arguments": list(signal.body)}
    return event | dict(zip(names, signal.body, strict=False))


def _print(event: Mapping[str, Any], options: GlobalOptions) -> None:
    """Print one event and flush, so that the reader of a pipe gets it at once."""
    if options.json:
        print(json.dumps(event), flush=True)
        return
    from gpumand.cli.render.format import clock
    from gpumand.cli.render.lines import signal_line

    line = signal_line(event["signal"], event)
    if line:
        print(f"{clock(event['time_usec'])}  {line}", flush=True)
