"""Whose process is it, for a daemon of a user: the user's systemd knows its own units, the system's all others.

Without the second, whatever the system runs on the card (a display manager, another user's notebook) could be
anybody's, and then nobody is known to hold nothing.
"""

from __future__ import annotations

from gpumand.bus.connection import BusConnection
from gpumand.service_manager.manager import Systemd1
from gpumand.service_manager.units import SystemdUnits

OF_THE_SYSTEM = " (system)"
"""Tells a unit of the system from the user's own of the same name; no unit's name has a space in it."""


class UserPids:
    """Names the unit of a process by asking the user's systemd, then the system's.

    Args:
        units: the user's.
        system_bus: where the system's systemd is.
        uid: the user.
    """

    def __init__(self, units: SystemdUnits, system_bus: BusConnection, uid: int) -> None:
        self._units = units
        self._system = Systemd1(system_bus)
        self._own_manager = f"user@{uid}.service"

    async def unit_of_pid(self, pid: int) -> str:
        """The unit a process runs in; "" when neither says.

        That it is in the user's own manager is no answer: then that one should have said where.
        """
        if unit := await self._units.unit_of_pid(pid):
            return unit
        unit = await self._system.unit_of_pid(pid)
        return unit + OF_THE_SYSTEM if unit and unit != self._own_manager else ""
