"""Finds the unit of a process for a daemon in a user session.

The user manager knows its own units, the system manager knows all others. Without the system manager, a process of the
system on the GPU (a display manager, another user's notebook) could belong to any consumer, so no consumer would be
known to hold no memory.
"""

from __future__ import annotations

from gpumand.bus.connection import BusConnection
from gpumand.service_manager.manager import Systemd1
from gpumand.service_manager.units import SystemdUnits

SYSTEM_SUFFIX = " (system)"
"""Marks a unit of the system manager, which may have the same name as a unit of the user; unit names have no spaces."""


class UserUnitResolver:
    """Finds the unit of a process by asking the user manager, then the system manager.

    Args:
        units: units of the user manager.
        system_bus: connection to the bus of the system manager.
        uid: user id of the user.
    """

    def __init__(self, units: SystemdUnits, system_bus: BusConnection, uid: int) -> None:
        self._units = units
        self._system = Systemd1(system_bus)
        self._own_manager = f"user@{uid}.service"

    async def unit_of_pid(self, pid: int) -> str:
        """Return the unit that a process runs in; "" if neither manager knows it.

        If the system manager names the user's own manager, the answer is "": the user manager did not know the unit.
        """
        if unit := await self._units.unit_of_pid(pid):
            return unit
        unit = await self._system.unit_of_pid(pid)
        return unit + SYSTEM_SUFFIX if unit and unit != self._own_manager else ""
