"""Joins two views of the same memory: the memory of single processes, and the memory of units as a whole.

A source may report both, such as the kernel's KFD list of processes and its dmem cgroup controller. They describe the
same bytes, so the larger amount counts for each unit, never the sum. Either may miss something: KFD lists no graphics
memory, and dmem does not see what a process allocated before the controller was enabled.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from gpumand.domain.device import ProcessUse


def joined(processes: Sequence[ProcessUse], *, processes_count_first: bool = False) -> tuple[ProcessUse, ...]:
    """Reduce the entry of each unit as a whole to what its listed processes do not explain.

    Args:
        processes: entries with their units; those with pid 0 stand for a unit as a whole.
        processes_count_first: a unit as a whole counts only if none of its processes is listed with an amount.

    Returns:
        The processes first, then the remainders of units. The entries of a unit add up to the larger of the two views.
        A process with an unknown amount is left out if its unit as a whole is known, since it is part of that amount.
    """
    whole = _whole_units(processes)
    if not whole:
        return tuple(processes)
    by_process = [one for one in processes if one.pid and not (one.used_mib is None and _is_known(whole, one.unit))]
    listed_mib = _listed_mib(by_process)
    counted = {unit: one for unit, one in whole.items() if not (processes_count_first and listed_mib.get(unit))}
    remainders = (_remainder(row, mib, listed_mib.get(unit, 0)) for unit, (row, mib) in counted.items())
    return (*by_process, *(row for row in remainders if row is not None))


def _whole_units(processes: Iterable[ProcessUse]) -> dict[str, tuple[ProcessUse, int | None]]:
    """Unit -> its entry as a whole, and the MiB of it; None = unknown."""
    whole: dict[str, tuple[ProcessUse, int | None]] = {}
    for one in processes:
        if not one.pid:
            _, so_far = whole.get(one.unit, (one, 0))
            whole[one.unit] = (one, None if so_far is None or one.used_mib is None else so_far + one.used_mib)
    return whole


def _is_known(whole: Mapping[str, tuple[ProcessUse, int | None]], unit: str) -> bool:
    return unit in whole and whole[unit][1] is not None


def _listed_mib(processes: Iterable[ProcessUse]) -> dict[str, int]:
    listed_mib: dict[str, int] = defaultdict(int)
    for one in processes:
        listed_mib[one.unit] += one.used_mib or 0
    return listed_mib


def _remainder(row: ProcessUse, whole_mib: int | None, listed_mib: int) -> ProcessUse | None:
    if whole_mib is None:
        return replace(row, used_mib=None)
    return replace(row, used_mib=whole_mib - listed_mib) if whole_mib > listed_mib else None
