"""What a shell may complete: consumers and leases, as far as a running gpumand tells them at once."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from gpumand.bus.failures import BusError, BusLost
from gpumand.cli.errors import Mismatch, NoBus
from gpumand.cli.options import global_options
from gpumand.cli.session import connected

LIMIT_SEC = 1.0
"""Nobody wants to wait for a completion."""


def consumers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of consumers that begin so."""
    return _names(ctx, "consumers", "name", incomplete)


def leases(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Ids of leases that begin so."""
    return _names(ctx, "leases", "id", incomplete)


def _names(ctx: click.Context, table: str, key: str, incomplete: str) -> list[str]:
    """One column of the status; a completion never complains."""
    try:
        status = asyncio.run(asyncio.wait_for(_status(ctx), LIMIT_SEC))
    except (BusError, BusLost, NoBus, Mismatch, TimeoutError, click.UsageError):
        return []
    names = [entry.get(key) for entry in status[table] if isinstance(entry, dict)]
    return [name for name in names if isinstance(name, str) and name.startswith(incomplete)]


async def _status(ctx: click.Context) -> dict[str, Any]:
    async with connected(global_options(ctx)) as client:
        return await client.status()
