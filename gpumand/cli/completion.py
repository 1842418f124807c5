"""What a shell may complete: consumers and leases, as far as a running gpumand tells them at once.

A completion never complains, never starts the daemon, and never keeps anybody waiting.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import click

from gpumand.bus.connection_errors import BusError, BusLost
from gpumand.cli.errors import Mismatch, NoBus
from gpumand.cli.options import global_options
from gpumand.cli.session import connected

LIMIT_SEC = 1.0
"""Nobody wants to wait for a completion."""


def consumers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of consumers that begin so."""
    return _beginning(_column(ctx, "consumers", "name"), incomplete)


def leases(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Ids of our own leases that begin so; those of others where none of ours does."""
    entries = _entries(ctx, "leases")
    own = [one for one in entries if one.get("owner_uid") == os.getuid()]
    return _beginning(_texts(own, "id"), incomplete) or _beginning(_texts(entries, "id"), incomplete)


def devices(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Indices of GPUs, or their UUIDs where one was begun."""
    entries = _entries(ctx, "devices")
    indices = [str(one.get("index", "")) for one in entries]
    return _beginning([*indices, *_texts(entries, "uuid")] if incomplete else indices, incomplete)


def _beginning(names: list[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _column(ctx: click.Context, table: str, key: str) -> list[str]:
    return _texts(_entries(ctx, table), key)


def _texts(entries: list[dict[str, Any]], key: str) -> list[str]:
    """One column, without what no shell should get: control characters."""
    return [one[key] for one in entries if isinstance(one.get(key), str) and one[key].isprintable()]


def _entries(ctx: click.Context, table: str) -> list[dict[str, Any]]:
    """One table of the status; empty for any reason not to have it."""
    try:
        status = asyncio.run(asyncio.wait_for(_status(ctx), LIMIT_SEC))
    except (BusError, BusLost, NoBus, Mismatch, TimeoutError, click.UsageError):
        return []
    return [entry for entry in status.get(table, []) if isinstance(entry, dict)]


async def _status(ctx: click.Context) -> dict[str, Any]:
    """A snapshot of a daemon that runs already; a call alone would have the bus start it."""
    async with connected(global_options(ctx)) as client:
        return await client.status() if await client.is_running() else {}
