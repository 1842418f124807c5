"""Fleets of scripted hosts for tests of routers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gpumand.fleet.rows import HostRow
from tests.unit.fleet.scripted_fleet import ScriptedFleet

DEADLINE_SEC = 30.0


async def started_fleet(*rows: HostRow) -> ScriptedFleet:
    made = ScriptedFleet(*rows)
    await made.start()
    return made


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition; fails with the words after a deadline."""
    deadline = asyncio.get_running_loop().time() + DEADLINE_SEC
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"not in time: {what}"
        await asyncio.sleep(0.005)


def intents(fleet: ScriptedFleet) -> list[str]:
    return [entry.key for entry in fleet.memory.listing(fleet.keys.intents).entries]
