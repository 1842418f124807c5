"""The state of the host from sources other than the daemon: systemd, the consumers and the simulator's files."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from gpumand.bus.connection import BusConnection

SYSTEMD = "org.freedesktop.systemd1"
MANAGER_PATH = "/org/freedesktop/systemd1"
DAEMON_PATH = f"{MANAGER_PATH}/unit/gpumand_2eservice"
PROPERTIES = "org.freedesktop.DBus.Properties"
SERVICE_KEYS = ("MainPID", "NRestarts", "Result", "ExecMainStartTimestampMonotonic")
UNIT_KEYS = ("ActiveState", "SubState", "ActiveEnterTimestampMonotonic")


async def observe(bus: BusConnection, units: list[str], ports: dict[str, int], vram_dir: str) -> dict[str, Any]:
    """Read the state of units, consumers and memory once.

    Returns:
        ``units``: by name, ActiveState, SubState and job type. ``health``: by consumer, its health answer; None if
        nothing listens. ``memory``: MiB in use by running processes, by their unit.
    """
    answers = await asyncio.gather(_units(bus, units), *(_health(port) for port in ports.values()))
    health = dict(zip(ports, answers[1:], strict=True))
    return {"units": answers[0], "health": health, "memory": await asyncio.to_thread(_memory, Path(vram_dir))}


async def service(bus: BusConnection) -> dict[str, Any]:
    """Return the state of the daemon's unit, when it became ready, and when its process was started."""
    found: dict[str, Any] = {}
    for interface, keys in ((f"{SYSTEMD}.Service", SERVICE_KEYS), (f"{SYSTEMD}.Unit", UNIT_KEYS)):
        (properties,) = await bus.call(SYSTEMD, DAEMON_PATH, PROPERTIES, "GetAll", "s", (interface,))
        found |= {key: properties[key] for key in keys}
    return found


async def _units(bus: BusConnection, names: list[str]) -> dict[str, list[str]]:
    where = (SYSTEMD, MANAGER_PATH, f"{SYSTEMD}.Manager", "ListUnitsByNames")
    (entries,) = await bus.call(*where, "as", (names,))
    return {entry[0]: [entry[3], entry[4], entry[8]] for entry in entries}


async def _health(port: int) -> dict[str, Any] | None:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
    except OSError:
        return None
    _, _, body = answer.partition(b"\r\n\r\n")
    return dict(json.loads(body)) if body else None


def _memory(folder: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in os.listdir(folder) if folder.exists() else []:
        try:
            unit = Path("/proc", name, "cgroup").read_text(encoding="ascii").strip().rpartition("/")[2]
            announced = json.loads((folder / name).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue  # not an announcement, or its process has just ended
        found[unit] = found.get(unit, 0) + int(announced["mib"])
    return found
