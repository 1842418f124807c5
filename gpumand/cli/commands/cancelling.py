"""``gpumanctl cancel``: ends a waiting request."""

from __future__ import annotations

import click

from gpumand.cli import completion
from gpumand.cli.client import Client
from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.options import Command, GlobalOptions, global_options
from gpumand.cli.output import print_json
from gpumand.cli.session import run_with_blocking_client

MIN_PREFIX = 4
"""Characters of an id that a user has to give."""


@click.command(cls=Command)
@click.argument("request", shell_complete=completion.requests)
@click.pass_context
def cancel(ctx: click.Context, request: str) -> None:
    """Cancel the waiting REQUEST.

    REQUEST is the id of a waiting request, as status shows it, or its first 4 or more characters. The program that
    waits gets the error Cancelled. Another user's request needs the permission org.gpumand1.release-any.
    """

    async def call(client: Client, _: GlobalOptions) -> str:
        cancelled = await _complete_id(client, request)
        await client.cancel(cancelled)
        return cancelled

    cancelled = run_with_blocking_client(ctx, call)
    if global_options(ctx).json:
        print_json({"request": cancelled})


async def _complete_id(client: Client, request: str) -> str:
    """The id of the only waiting request that begins with the text; otherwise the text, for the daemon to refuse."""
    if len(request) < MIN_PREFIX:
        return request
    ids = [str(one.get("id", "")) for one in (await client.status())["queue"]]
    matches = [one for one in ids if one.startswith(request.lower())]
    if len(matches) > 1:
        line = f"'{request}' is the beginning of {len(matches)} request ids; give more characters of it"
        raise Failure(ExitCode.FAILURE, line)
    return matches[0] if matches else request
