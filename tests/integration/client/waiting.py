"""Waiting for a condition of the status."""

from __future__ import annotations

import asyncio

from gpumand.client import Client
from gpumand.client.values import Status

DEADLINE_SEC = 40.0


async def status_where(client: Client, what: str, *, leases: int | None = None, queue: int | None = None) -> Status:
    """The first status with the given numbers of leases and requests. Raises AssertionError after the deadline."""
    deadline = asyncio.get_running_loop().time() + DEADLINE_SEC
    while True:
        status = await client.status()
        if leases in (None, len(status.leases)) and queue in (None, len(status.queue)):
            return status
        assert asyncio.get_running_loop().time() < deadline, f"never: {what}"
        await asyncio.sleep(0.02)
