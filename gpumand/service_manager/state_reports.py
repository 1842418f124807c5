"""Reads the states of many units: all are listed in few calls, and only those that are in use are read fully."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence

from gpumand.domain.consumer import UnitState
from gpumand.ports import UnitFailed
from gpumand.service_manager.manager import MAX_LISTED, Systemd1
from gpumand.service_manager.unit_names import bad_unit_name, is_unit_name

Report = Callable[[UnitState], None]


class StateReports:
    """Reads and reports the states of many units.

    Of a unit that is inactive and has no job, the list shows all that decides anything. Of any other, the run and the
    result are read too.

    Args:
        systemd: the manager of the units.
        read: reads the state of one unit; raises UnitFailed.
    """

    def __init__(self, systemd: Systemd1, read: Callable[[str], Awaitable[UnitState]]) -> None:
        self._systemd, self._read = systemd, read

    async def report(self, units: Iterable[str], report: Report) -> dict[str, UnitFailed]:
        """Report the state of each unit as soon as it is known.

        Args:
            units: names of units.
            report: called once for each unit that systemd answers for, before anything newer can arrive for it.

        Returns:
            Why the others are unknown.
        """
        names = sorted(set(units))
        named = [unit for unit in names if is_unit_name(unit)]
        failures = {unit: bad_unit_name(unit) for unit in names if not is_unit_name(unit)}
        for start in range(0, len(named), MAX_LISTED):
            batch = named[start : start + MAX_LISTED]
            try:
                failures |= await self._report_batch(batch, report)
            except UnitFailed as failed:  # systemd does not answer: each further list would wait just as long
                return failures | dict.fromkeys(named[start:], failed)
        return failures

    async def _report_batch(self, units: Sequence[str], report: Report) -> dict[str, UnitFailed]:
        listed = await self._systemd.list_units(units)
        unread: list[str] = []
        # Without an await in between: a change that is announced after the list must be reported after it.
        for unit in units:
            state = listed[unit].state_at_rest() if unit in listed else None
            if state is None:
                unread.append(unit)
            else:
                report(state)
        failed = await asyncio.gather(*(self._report_one(unit, report) for unit in unread))
        return {unit: why for unit, why in zip(unread, failed, strict=True) if why is not None}

    async def _report_one(self, unit: str, report: Report) -> UnitFailed | None:
        try:
            report(await self._read(unit))
        except UnitFailed as failed:
            return failed
        return None
