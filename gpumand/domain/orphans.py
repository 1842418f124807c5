"""Processes that a stopped unit has left behind: their memory belongs to no consumer that could use or free it.

A unit with ``KillMode=process`` or ``none`` is stopped while some of its processes live on. systemd still names the
unit as theirs, so a reading would attribute their memory to the consumer, as if its next run could use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from gpumand.domain.container import container_of
from gpumand.domain.device import ProcessUse, Reading, Sample


class Orphans:
    """The orphaned processes, which count as foreign processes and keep the name of their unit.

    A source may report the memory of a unit as a whole, with pid 0. Then the amount that the stopped unit still held
    is foreign, and what its next run adds to that amount belongs to the consumer again.
    """

    def __init__(self) -> None:
        self._consumer_by_pid: dict[int, str] = {}
        self._unit_parts: dict[tuple[int, str], _UnitPart] = {}

    def add(self, consumer: str, samples: Iterable[Sample]) -> None:
        """Count the processes of a consumer as orphans from now on.

        Args:
            consumer: the consumer whose unit is stopped.
            samples: the last sample of each device.
        """
        for sample in samples:
            for process in processes_of(consumer, [sample]):
                if process.pid:
                    self._consumer_by_pid[process.pid] = consumer
                else:
                    part = self._unit_parts.get((sample.index, process.unit), _UnitPart(consumer, 0))
                    self._unit_parts[sample.index, process.unit] = part.with_more(process.used_mib)

    def belong_to(self, consumer: str) -> bool:
        """Whether any known orphan was left behind by this consumer's unit."""
        return consumer in self._consumer_by_pid.values() or any(
            part.consumer == consumer for part in self._unit_parts.values()
        )

    def separate(self, reading: Reading) -> Reading:
        """Return a reading in which orphans are foreign processes, and forget those that have ended."""
        if not self._consumer_by_pid and not self._unit_parts:
            return reading
        if reading.devices and not reading.error and all(sample.is_measured for sample in reading.devices):
            self._forget_ended(reading.devices)
        return replace(reading, devices=tuple(self._separated(sample) for sample in reading.devices))

    def _forget_ended(self, samples: Iterable[Sample]) -> None:
        listed = [(sample.index, process) for sample in samples for process in sample.processes]
        pids = {process.pid for _, process in listed}
        self._consumer_by_pid = {pid: name for pid, name in self._consumer_by_pid.items() if pid in pids}
        now_mib: dict[tuple[int, str], int | None] = {}
        for device, process in listed:
            if not process.pid:
                now_mib[device, process.unit] = _sum(now_mib.get((device, process.unit), 0), process.used_mib)
        self._unit_parts = {
            key: part.at_most(now_mib[key]) for key, part in self._unit_parts.items() if now_mib.get(key, 0) != 0
        }

    def _separated(self, sample: Sample) -> Sample:
        separated = tuple(part for process in sample.processes for part in self._parts(sample, process))
        return sample if separated == sample.processes else sample.with_processes(separated)

    def _parts(self, sample: Sample, process: ProcessUse) -> Iterable[ProcessUse]:
        """A process as it is or as a foreign one; the entry of a whole unit in two parts if a new run has begun."""
        if process.pid:
            yield replace(process, consumer="") if process.pid in self._consumer_by_pid else process
            return
        part = self._unit_parts.get((sample.index, process.unit))
        if part is None or not process.consumer:
            yield process
            return
        own_mib = None if part.mib is None or process.used_mib is None else _grown_mib(sample, process, part.mib)
        if own_mib is None or process.used_mib is None:
            yield replace(process, consumer="")
            return
        if own_mib < process.used_mib:
            yield replace(process, consumer="", used_mib=process.used_mib - own_mib)
        if own_mib:
            yield replace(process, used_mib=own_mib)


def _grown_mib(sample: Sample, process: ProcessUse, orphaned_mib: int) -> int:
    """MiB of a unit's entry beyond what its stopped run holds, some of which may have been separated before."""
    separated_mib = sum(
        one.used_mib or 0 for one in sample.processes if (one.pid, one.unit, one.consumer) == (0, process.unit, "")
    )
    return max(0, (process.used_mib or 0) - max(0, orphaned_mib - separated_mib))


@dataclass(frozen=True, slots=True)
class _UnitPart:
    """The part of a unit's memory that its stopped run holds.

    Attributes:
        consumer: the consumer whose unit it is.
        mib: the amount; None where it is unknown.
    """

    consumer: str
    mib: int | None

    def with_more(self, mib: int | None) -> _UnitPart:
        return replace(self, mib=_sum(self.mib, mib))

    def at_most(self, mib: int | None) -> _UnitPart:
        """The part after a reading in which the whole unit holds this amount."""
        known = [amount for amount in (self.mib, mib) if amount is not None]
        return replace(self, mib=min(known) if known else None)


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def processes_of(consumer: str, samples: Iterable[Sample]) -> list[ProcessUse]:
    """Return the entries of a consumer's processes, one for each device on which a process holds memory."""
    return [process for sample in samples for process in sample.processes if process.consumer == consumer]


def describe_orphans(unit: str, processes: Sequence[ProcessUse]) -> str:
    """Name the processes that hold memory although their unit was stopped, and what to do; one line."""
    names = ", ".join(map(_describe, processes[:3]))
    more = f" and {len(processes) - 3} more" if len(processes) > 3 else ""
    if container_of(unit):
        return f"{unit} was stopped, but {names}{more} still runs. End the process, and check the container's engine"
    return (
        f"{unit} was stopped, but it has left {names}{more} running. End the process, and remove KillMode=process "
        f"or KillMode=none from {unit} so that a stop ends all of its processes"
    )


def _describe(process: ProcessUse) -> str:
    amount = f"{process.used_mib} MiB" if process.used_mib is not None else "an unknown amount of VRAM"
    if not process.pid:
        return f"processes that hold {amount}"
    return f"{process.name or 'a process'} (pid {process.pid}, {amount})"
