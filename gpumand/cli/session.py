"""From a command line to a conversation: picks the bus, connects, runs the questions, and always closes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import click

from gpumand.bus.connection_errors import BusError, BusLost, BusTimeout
from gpumand.cli.client import Client
from gpumand.cli.errors import NoBus, not_started
from gpumand.cli.options import GlobalOptions, global_options

T = TypeVar("T")


@asynccontextmanager
async def connected(options: GlobalOptions) -> AsyncIterator[Client]:
    """A client on the bus that was asked for; leaving closes the connection, which withdraws what still waits.

    Raises:
        NoBus: there is none, or it does not let us in.
        Failure: nobody answered in time, since the daemon is not there: the bus tried to start it, and it ended at
            its start. The bus does not hear of that from systemd, and lets whoever called wait.
    """
    address = options.bus_address or ("session" if options.user else "system")
    try:
        client = await Client.connect(address)
    except BusLost as error:
        raise NoBus(str(error)) from error
    try:
        yield client
    except BusTimeout as error:
        if await _is_away(client):
            raise not_started(error, options) from error
        raise
    finally:
        await client.close()


async def _is_away(client: Client) -> bool:
    """Whether nobody is there who could have answered."""
    try:
        return not await client.is_running()
    except (BusError, BusLost):
        return False


def ask(ctx: click.Context, question: Callable[[Client, GlobalOptions], Coroutine[Any, Any, T]]) -> T:
    """Connect, ask, close. Ctrl-C cancels the question and becomes KeyboardInterrupt."""
    options = global_options(ctx)

    async def conversation() -> T:
        async with connected(options) as client:
            return await question(client, options)

    return asyncio.run(conversation())
