"""Shell completion of consumers, leases and GPUs, from the status of a running gpumand.

A completion prints no errors, never starts the daemon, and gives up after ``LIMIT_SEC``.
"""

from __future__ import annotations

import os
from typing import Any

import click

from gpumand.bus.connection_errors import BusError, BusLost
from gpumand.cli.errors import Mismatch, NoBus
from gpumand.cli.options import global_options
from gpumand.cli.session import connected

LIMIT_SEC = 1.0
"""Maximum time for one completion, in seconds."""


def consumers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of consumers that start with ``incomplete``."""
    return _beginning(_column(ctx, "consumers", "name"), incomplete)


def leases(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Ids of the caller's own leases that start with ``incomplete``; ids of other leases when none of them does."""
    entries = _entries(ctx, "leases")
    own = [one for one in entries if one.get("owner_uid") == os.getuid()]
    return _beginning(_texts(own, "id"), incomplete) or _beginning(_texts(entries, "id"), incomplete)


def requests(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Ids of the caller's own waiting requests that start with ``incomplete``; of others when none of them does."""
    entries = _entries(ctx, "queue")
    own = [one for one in entries if one.get("owner_uid") == os.getuid()]
    return _beginning(_texts(own, "id"), incomplete) or _beginning(_texts(entries, "id"), incomplete)


def devices(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Indices of GPUs; their UUIDs too once a character was typed."""
    entries = _entries(ctx, "devices")
    indices = [str(one.get("index", "")) for one in entries]
    return _beginning([*indices, *_texts(entries, "uuid")] if incomplete else indices, incomplete)


def _beginning(names: list[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _column(ctx: click.Context, table: str, key: str) -> list[str]:
    return _texts(_entries(ctx, table), key)


def _texts(entries: list[dict[str, Any]], key: str) -> list[str]:
    """The values of one key; a value with control characters is left out, since the shell would print it raw."""
    return [one[key] for one in entries if isinstance(one.get(key), str) and one[key].isprintable()]


def _entries(ctx: click.Context, table: str) -> list[dict[str, Any]]:
    """One table of the status; empty when the status is not available for any reason."""
    import asyncio

    try:
        status = asyncio.run(asyncio.wait_for(_status(ctx), LIMIT_SEC))
    except (BusError, BusLost, NoBus, Mismatch, TimeoutError, click.UsageError):
        return []
    return [entry for entry in status.get(table, []) if isinstance(entry, dict)]


async def _status(ctx: click.Context) -> dict[str, Any]:
    """The status of a running daemon; {} when none runs.

    Checking first matters: a call to a name without an owner makes the bus start the daemon.
    """
    async with connected(global_options(ctx)) as client:
        return await client.status() if await client.is_running() else {}
