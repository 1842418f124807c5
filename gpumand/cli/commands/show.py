"""``gpumanctl show``: everything that the daemon knows about one consumer."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from gpumand.bus.connection_errors import BusError
from gpumand.cli import completion
from gpumand.cli.client import Client
from gpumand.cli.errors import ExitCode, Failure, hint_for
from gpumand.cli.options import Command, GlobalOptions, global_options
from gpumand.cli.output import print_json, print_lines, theme_for
from gpumand.cli.session import run_with_blocking_client
from gpumand.domain.errors import ERROR_PREFIX
from gpumand.domain.name_suggestions import no_such_consumer

RECENT = 5
RECENT_KINDS = ["eviction", "eviction-failed", "eviction-deferred", "load", "load-failed"]


@click.command(cls=Command)
@click.argument("consumer", shell_complete=completion.consumers)
@click.pass_context
def show(ctx: click.Context, consumer: str) -> None:
    """Show everything about CONSUMER.

    Shows its state, leases and waiting requests, its declared and measured VRAM footprint, the duration of loads and
    unloads, recent events, and what a request for it would do now.
    """

    async def call(client: Client, _: GlobalOptions) -> dict[str, Any]:
        return await collect(client, consumer)

    options = global_options(ctx)
    shown = run_with_blocking_client(ctx, call)
    if options.json:
        return print_json(shown)
    from gpumand.cli.render.show import show_lines

    return print_lines(show_lines(shown, time.time_ns() // 1000, theme_for(sys.stdout, options)), options)


async def collect(client: Client, name: str) -> dict[str, Any]:
    """Everything about a consumer that the D-Bus API offers, as plain values.

    Raises:
        Failure: there is no consumer of that name.
    """
    status = await client.status()
    entry = consumer_of(status, name)
    wanted = {"consumer": ("s", name), "kinds": ("as", RECENT_KINDS), "limit": ("u", RECENT)}
    properties, recent, plan = await client.consumer(name), await client.history(wanted), await _plan(client, name)
    return {
        "consumer": entry,
        "learned": properties.get("Learned") or {},
        "leases": [lease for lease in status["leases"] if lease["consumer"] == name],
        "queue": [waiting for waiting in status["queue"] if waiting["consumer"] == name],
        "history": recent,
        "plan": plan,
    }


def consumer_of(status: dict[str, Any], name: str) -> dict[str, Any]:
    """The consumer's entry of a status.

    Raises:
        Failure: there is no consumer of that name; the message suggests the nearest one.
    """
    for entry in status["consumers"]:
        if entry["name"] == name:
            found: dict[str, Any] = entry
            return found
    wrong = no_such_consumer(name, [str(entry["name"]) for entry in status["consumers"]])
    raise Failure(ExitCode.NO_SUCH, wrong.message + hint_for(wrong.dbus_name, wrong.message))


async def _plan(client: Client, name: str) -> dict[str, Any]:
    """The plan of an Acquire; a dictionary with the error when the daemon cannot make one."""
    try:
        return await client.plan(name, {})
    except BusError as error:
        if not error.name.startswith(ERROR_PREFIX):
            raise
        return {"error": error.name, "message": error.message}
