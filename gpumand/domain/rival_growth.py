"""Memory that others took while a consumer was being loaded: the usual reason of a load that ran out of memory.

Nothing keeps other programs from allocating between the check and the load. A service that was evicted comes back
at once if its own clients go on using it, or if something starts its unit again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from gpumand.domain import budget
from gpumand.domain.device import Devices, ProcessUse, Sample
from gpumand.domain.name_lists import join_names
from gpumand.domain.wording import describe_process, format_mib

LEAST_MIB = 256
"""Smaller growth is not named: desktops and CUDA contexts vary by that."""

MAX_NAMED = 3

ADVICE = (
    ". A service that comes back after an eviction is used by clients without leases: send them through the gateway"
)


def describe(
    before: Mapping[int, Sample], now: Mapping[int, Sample], consumer: str, devices: Devices, needed_mib: int
) -> str:
    """What others took on the devices of a failed load, as a sentence; "" where the load would still have fitted.

    Args:
        before: the samples at the beginning of the load.
        now: the samples after it.
        consumer: the consumer that was loaded.
        devices: its devices.
        needed_mib: MiB that it needs on each of them, of which some may be its own already.
    """
    for device in devices:
        first, last = before.get(device), now.get(device)
        if first is None or last is None or first.free_mib is None:
            continue
        grown = sorted(_grown(first, last, consumer), key=lambda one: -one[1])
        left_mib = first.free_mib + (first.held_by(consumer) or 0) - sum(mib for _, mib in grown)
        if last.free_mib is not None:
            # Others may have freed as much meanwhile, for example a program that was started again.
            left_mib = max(left_mib, last.free_mib + (last.held_by(consumer) or 0))
        if grown and left_mib < needed_mib:
            names = join_names([f"{name} took {format_mib(mib)}" for name, mib in grown[:MAX_NAMED]])
            left = f"which left {format_mib(max(0, left_mib))} for the load"
            again = ADVICE if any(last.held_by(name) for name, _ in grown) else ""
            return f"Meanwhile {names} on device {device}, {left}{again}"
    return ""


def _grown(first: Sample, last: Sample, consumer: str) -> Iterator[tuple[str, int]]:
    """Names and MiB of consumers and foreign processes that hold more than before."""
    names = {one.consumer for one in last.processes} - {"", consumer}
    for name in names:
        yield from _above_noise(name, last.held_by(name), first.held_by(name))
    # On a list that is not complete, a process that is missing may have held as much before.
    absent_mib = 0 if first.attributed else None
    former = {_identity(one): one.used_mib for one in first.processes}
    for process in budget.foreign_processes(last):
        before_mib = former.get(_identity(process), absent_mib)
        yield from _above_noise(describe_process(process), process.used_mib, before_mib)


def _identity(process: ProcessUse) -> tuple[int, str]:
    """What tells a process from the others; units as a whole, and all that is in them, have the process id 0."""
    return process.pid, "" if process.pid else process.cgroup or process.unit


def _above_noise(name: str, now_mib: int | None, before_mib: int | None) -> Iterable[tuple[str, int]]:
    grown_mib = 0 if now_mib is None or before_mib is None else now_mib - before_mib
    return [(name, grown_mib)] if grown_mib > LEAST_MIB else []
