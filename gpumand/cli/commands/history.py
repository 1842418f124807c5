"""``history``: what happened, also before the last restart of the daemon."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from gpumand.cli import completion
from gpumand.cli.client import Client
from gpumand.cli.options import Command, GlobalOptions, global_options
from gpumand.cli.output import look_of, print_json, print_lines
from gpumand.cli.session import ask
from gpumand.cli.timestamps import WHEN
from gpumand.domain.history import MAX_ENTRIES, EntryKind

MOST_ENTRIES = 100_000
"""What --limit may ask for; what is kept is of that order."""

Entry = dict[str, Any]


@click.command(cls=Command)
@click.option("--since", type=WHEN, metavar="WHEN", help="From then on: 2h, yesterday, 10:30, '2026-11-24 18:00' …")
@click.option("--until", type=WHEN, metavar="WHEN", help="Until then, written in the same way.")
@click.option(
    "--consumer",
    metavar="NAME",
    default="",
    shell_complete=completion.consumers,
    help="Of this consumer only, evictions for it included.",
)
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice([kind.value for kind in EntryKind]),
    help="Only this; may be given several times.",
)
@click.option(
    "-n", "--limit", type=click.IntRange(1, MOST_ENTRIES), default=100, help="At most so many, the newest; default 100."
)
@click.pass_context
def history(
    ctx: click.Context, since: int | None, until: int | None, consumer: str, kinds: tuple[str, ...], limit: int
) -> None:
    """Show grants, refusals, loads and evictions of the past.

    The newest first, also from before the last restart, as far back as [history] in the
    configuration has it kept. Times are local.
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

    async def question(client: Client, _: GlobalOptions) -> list[Entry]:
        return await entries(client, wanted, limit)

    options = global_options(ctx)
    found = ask(ctx, question)
    if options.json:
        return print_json(found)
    from gpumand.cli.render.history import history_lines

    nothing = ("Nothing of that kind is kept.",) if wanted else ("Nothing happened yet, or nothing of it is kept.",)
    return print_lines(history_lines(found, time.time_ns() // 1000, look_of(sys.stdout, options), *nothing), options)


async def entries(client: Client, wanted: dict[str, tuple[str, Any]], limit: int) -> list[Entry]:
    """The newest entries, asked for in as many pages as it takes.

    A page ends in the middle of a microsecond as likely as not, so the next one begins with it again, without those
    of it that we have.
    """
    found: list[Entry] = []
    until = wanted
    seen = 0
    while len(found) < limit:
        size = min(MAX_ENTRIES, limit - len(found) + seen)
        page = await client.history({**until, "limit": ("u", size)})
        found += page[seen:]
        if len(page) < size or len(page) <= seen:
            break
        last_usec = found[-1]["at_usec"]
        seen = sum(1 for one in found if one["at_usec"] == last_usec)
        until = {**wanted, "until_usec": ("t", last_usec + 1)}
    return found[:limit]
