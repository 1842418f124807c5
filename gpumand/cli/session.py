"""Connects a command to the daemon: selects the bus, connects, runs the calls and always closes the connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import click

from gpumand.bus.connection_errors import BusError, BusLost, BusTimeout
from gpumand.cli.client import Client
from gpumand.cli.errors import NoBus, daemon_did_not_start
from gpumand.cli.options import GlobalOptions, global_options

T = TypeVar("T")


@asynccontextmanager
async def connected(options: GlobalOptions) -> AsyncIterator[Client]:
    """A client on the bus that the options select; leaving closes the connection, which withdraws waiting requests.

    Raises:
        NoBus: there is no bus, or it refuses the connection.
        Failure: a call timed out because gpumand does not run: the bus tried to start it, and it exited at once.
            systemd does not report that to the bus, so the caller gets no error before its own timeout.
    """
    address = options.bus_address or ("session" if options.user else "system")
    try:
        client = await Client.connect(address)
    except BusLost as error:
        raise NoBus(str(error)) from error
    try:
        yield client
    except BusTimeout as error:
        if await _has_no_daemon(client):
            raise daemon_did_not_start(error, options) from error
        raise
    finally:
        await client.close()


async def _has_no_daemon(client: Client) -> bool:
    """Whether no process owns gpumand's name on the bus; False when the bus cannot say."""
    try:
        return not await client.is_running()
    except (BusError, BusLost):
        return False


def run_with_client(ctx: click.Context, call: Callable[[Client, GlobalOptions], Coroutine[Any, Any, T]]) -> T:
    """Connect, await ``call`` with the client and the options, close, and return its result.

    Ctrl-C cancels the call and raises KeyboardInterrupt.
    """
    options = global_options(ctx)

    async def run() -> T:
        async with connected(options) as client:
            return await call(client, options)

    return asyncio.run(run())
