"""Fleets of scripted hosts for tests of routers."""

from __future__ import annotations

from gpumand.fleet.rows import HostRow
from tests.unit.fleet.scripted_fleet import ScriptedFleet


async def started_fleet(*rows: HostRow) -> ScriptedFleet:
    made = ScriptedFleet(*rows)
    await made.start()
    return made


def intents(fleet: ScriptedFleet) -> list[str]:
    return [entry.key for entry in fleet.memory.listing(fleet.keys.intents).entries]
