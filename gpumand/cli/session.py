"""Connects a command to the daemon: selects the bus, connects, runs the calls and always closes the connection.

Commands that make a few calls and end use ``run_with_blocking_client``, which starts in half the time: neither asyncio
nor its TLS is imported. Commands that wait in the queue, or listen to signals, use ``run_with_client``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
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
    try:
        client = await Client.connect(_address(options))
    except BusLost as error:
        raise NoBus(str(error)) from error
    async with _used(client, options):
        yield client


@asynccontextmanager
async def _connected_blocking(options: GlobalOptions) -> AsyncIterator[Client]:
    """Like ``connected``, with a connection that blocks."""
    from gpumand.client.blocking_connection import BlockingConnection

    try:
        client = Client(BlockingConnection.connect(_address(options)))
    except BusLost as error:
        raise NoBus(str(error)) from error
    async with _used(client, options):
        yield client


def _address(options: GlobalOptions) -> str:
    return options.bus_address or ("session" if options.user else "system")


@asynccontextmanager
async def _used(client: Client, options: GlobalOptions) -> AsyncIterator[None]:
    """Close the client at the end, and explain a call that timed out because gpumand does not run."""
    try:
        yield
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
    import asyncio

    return asyncio.run(_run(ctx, call, connected))


def run_with_blocking_client(ctx: click.Context, call: Callable[[Client, GlobalOptions], Coroutine[Any, Any, T]]) -> T:
    """Like ``run_with_client``, for calls that need no event loop: no signals, no tasks, no timers."""
    from gpumand.client.blocking_connection import run_blocking

    return run_blocking(_run(ctx, call, _connected_blocking))


async def _run(
    ctx: click.Context,
    call: Callable[[Client, GlobalOptions], Coroutine[Any, Any, T]],
    connect: Callable[[GlobalOptions], AbstractAsyncContextManager[Client]],
) -> T:
    options = global_options(ctx)
    async with connect(options) as client:
        return await call(client, options)
