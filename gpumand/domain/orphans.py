"""Processes that a stopped unit has left behind: their memory belongs to no consumer that could use or free it.

A unit with ``KillMode=process`` or ``none`` is stopped while some of its processes live on. systemd still names the
unit as theirs, so a reading would attribute their memory to the consumer, as if its next run could use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from gpumand.domain.device import ProcessUse, Reading, Sample


class Orphans:
    """The orphaned processes, by pid. They count as foreign processes, which keep the name of their unit."""

    def __init__(self) -> None:
        self._consumer_by_pid: dict[int, str] = {}

    def add(self, consumer: str, pids: Iterable[int]) -> None:
        """Count these processes of a consumer as orphans from now on."""
        self._consumer_by_pid |= dict.fromkeys(pids, consumer)

    def belong_to(self, consumer: str) -> bool:
        """Whether any known orphan was left behind by this consumer's unit."""
        return consumer in self._consumer_by_pid.values()

    def separate(self, reading: Reading) -> Reading:
        """Return a reading in which orphans are foreign processes, and forget those that have ended."""
        if not self._consumer_by_pid:
            return reading
        if reading.devices and not reading.error and all(sample.is_measured for sample in reading.devices):
            listed = {process.pid for sample in reading.devices for process in sample.processes}
            self._consumer_by_pid = {pid: name for pid, name in self._consumer_by_pid.items() if pid in listed}
        return replace(reading, devices=tuple(self._separated(sample) for sample in reading.devices))

    def _separated(self, sample: Sample) -> Sample:
        if not any(process.pid in self._consumer_by_pid for process in sample.processes):
            return sample
        return sample.with_processes(tuple(self._as_foreign(process) for process in sample.processes))

    def _as_foreign(self, process: ProcessUse) -> ProcessUse:
        return replace(process, consumer="") if process.pid in self._consumer_by_pid else process


def processes_of(consumer: str, samples: Iterable[Sample]) -> list[ProcessUse]:
    """Return the entries of a consumer's processes, one for each device on which a process holds memory."""
    return [process for sample in samples for process in sample.processes if process.consumer == consumer]


def describe_orphans(unit: str, processes: Sequence[ProcessUse]) -> str:
    """Name the processes that hold memory although their unit was stopped, and what to do; one line."""
    names = ", ".join(
        f"{process.name or 'a process'} (pid {process.pid}, "
        + (f"{process.used_mib} MiB)" if process.used_mib is not None else "an unknown amount of VRAM)")
        for process in processes[:3]
    )
    more = f" and {len(processes) - 3} more" if len(processes) > 3 else ""
    return (
        f"{unit} was stopped, but it has left {names}{more} running. End the process, and remove KillMode=process "
        f"or KillMode=none from {unit} so that a stop ends all of its processes"
    )
