"""``gpumanctl history``: past events, including those before the last restart of the daemon."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from gpumand.cli import completion
from gpumand.cli.client import Client
from gpumand.cli.options import Command, GlobalOptions, global_options
from gpumand.cli.output import print_json, print_lines, theme_for
from gpumand.cli.session import run_with_blocking_client
from gpumand.cli.timestamps import TIMESTAMP
from gpumand.domain.history import MAX_ENTRIES, EntryKind

MOST_ENTRIES = 100_000
"""The largest value of --limit; the daemon keeps about as many entries."""

Entry = dict[str, Any]


@click.command(cls=Command)
@click.option("--since", type=TIMESTAMP, metavar="WHEN", help="Start: 2h, yesterday, 10:30, '2026-11-24 18:00' …")
@click.option("--until", type=TIMESTAMP, metavar="WHEN", help="End, in the same notation.")
@click.option(
    "--consumer",
    metavar="NAME",
    default="",
    shell_complete=completion.consumers,
    help="Show only this consumer, including evictions made for it.",
)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice([kind.value for kind in EntryKind]),
    help="Show only this kind of event; may be given several times.",
)
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(1, MOST_ENTRIES),
    default=100,
    help="Maximum number of entries, the newest first. Default: 100.",
)
@click.pass_context
def history(
    ctx: click.Context, since: int | None, until: int | None, consumer: str, kinds: tuple[str, ...], limit: int
) -> None:
    """Show past grants, refusals, loads and evictions.

    The newest entry comes first. Entries from before the last restart are included, as far back as [history] in the
    configuration keeps them. Times are local.
    """
    wanted: dict[str, tuple[str, Any]] = {}
    if since is not None:
        wanted["since_usec"] = ("t", since)
    if until is not None:
        wanted["until_usec"] = ("t", until)
    if consumer:
        wanted["consumer"] = ("s", consumer)
    if kinds:
        wanted["kinds"] = ("as", list(kinds))

    async def call(client: Client, _: GlobalOptions) -> list[Entry]:
        return await entries(client, wanted, limit)

    options = global_options(ctx)
    found = run_with_blocking_client(ctx, call)
    if options.json:
        return print_json(found)
    from gpumand.cli.render.history import history_lines

    nothing = ("No matching entries.",) if wanted else ("The history is empty.",)
    return print_lines(history_lines(found, time.time_ns() // 1000, theme_for(sys.stdout, options), *nothing), options)


async def entries(client: Client, wanted: dict[str, tuple[str, Any]], limit: int) -> list[Entry]:
    """The newest entries, read page by page.

    A page may end between two entries of the same microsecond. The next page therefore starts with that microsecond
    again, and the entries that were read already are skipped.

    Args:
        client: a connection to the daemon.
        wanted: options of GetHistory that select entries.
        limit: maximum number of entries.
    """
    found: list[Entry] = []
    until = wanted
    seen = 0
    while len(found) < limit:
        size = min(MAX_ENTRIES, limit - len(found) + seen)
        page = await client.history({**until, "limit": ("u", size)})
        found += page[seen:]
        if len(page) < size or len(page) <= seen:  # the latter: one microsecond fills a page, so there is no next one
            break
        last_usec = found[-1]["at_usec"]
        seen = sum(1 for one in found if one["at_usec"] == last_usec)
        until = {**wanted, "until_usec": ("t", last_usec + 1)}
    return found[:limit]
