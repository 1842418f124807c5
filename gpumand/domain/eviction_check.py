"""Is the memory really free? An HTTP 200 proves nothing, nor does a stopped process: only figures do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.device import Sample

SLACK_MIB = 64
"""Figures this close are the same: drivers round, contexts breathe."""


@dataclass(frozen=True, slots=True)
class EvictionCheck:
    """What an eviction is measured against.

    Attributes:
        spec: the victim.
        before: the device's sample before the first method was tried.
        held_before_mib: what its own processes held then; None where they cannot be told from others.
        expected_mib: MiB it should give back.
        stays_mib: MiB that may stay.
    """

    spec: ConsumerSpec
    before: Sample
    held_before_mib: int | None
    expected_mib: int
    stays_mib: int = 0

    @property
    def can_be_measured(self) -> bool:
        """Whether there was any figure beforehand that a later one can be set against."""
        return self.held_before_mib is not None or self.before.free_mib is not None

    def freed_mib(self, now: Sample) -> int | None:
        """MiB given back so far: by its own processes where they are known, else by the device; None = unknown."""
        held_now_mib = self._held_now_mib(now)
        if self.held_before_mib is not None and held_now_mib is not None:
            return max(0, self.held_before_mib - held_now_mib)
        if self.before.free_mib is None or now.free_mib is None:
            return None
        return max(0, now.free_mib - self.before.free_mib)

    def settled(self, now: Sample) -> bool:
        """Whether it has given back what it should, and the device shows it.

        A process can leave NVML's list before the driver has freed its memory (and one in a container can leave it
        without freeing anything), so its own figure alone is not enough: at least half must be visible as free.
        """
        device_mib = None
        if self.before.free_mib is not None and now.free_mib is not None:
            device_mib = now.free_mib - self.before.free_mib
        if self._held_now_mib(now) is None:
            return device_mib is not None and device_mib >= self.expected_mib - self._slack_mib
        return self.gone_by_own_figure(now) and (device_mib is None or device_mib >= self.expected_mib // 2 - SLACK_MIB)

    def gone_by_own_figure(self, now: Sample) -> bool:
        """Whether its own processes hold nothing any more, whatever the device shows.

        The last word when time is up: somebody else may have taken what it freed.
        """
        held_now_mib = self._held_now_mib(now)
        return held_now_mib is not None and held_now_mib <= self.stays_mib + self._slack_mib

    def _held_now_mib(self, now: Sample) -> int | None:
        return None if self.held_before_mib is None else now.held_by(self.spec.name)

    @property
    def _slack_mib(self) -> int:
        return max(SLACK_MIB, self.expected_mib // 20)


@dataclass(frozen=True, slots=True)
class MultiDeviceEvictionCheck:
    """The same for a consumer on several devices: its memory is free when it is free on every one of them.

    A device that could not be read even beforehand says nothing, and is not waited for.

    Attributes:
        spec: the victim.
        parts: by device.
    """

    spec: ConsumerSpec
    parts: Mapping[int, EvictionCheck]

    @property
    def _measured(self) -> Mapping[int, EvictionCheck]:
        return {device: one for device, one in self.parts.items() if one.can_be_measured}

    @property
    def is_known(self) -> bool:
        """Whether every device had figures beforehand."""
        return all(one.before.known for one in self.parts.values())

    @property
    def expected_mib(self) -> int:
        """MiB it should give back on all of them together."""
        return sum(one.expected_mib for one in self.parts.values())

    @property
    def can_be_measured(self) -> bool:
        """Whether any device had a figure beforehand that a later one can be set against."""
        return bool(self._measured)

    def freed_mib(self, now: Mapping[int, Sample]) -> int | None:
        """MiB given back so far on all of them together; None = unknown."""
        freed = [one.freed_mib(now[device]) for device, one in self._measured.items()]
        known = [mib for mib in freed if mib is not None]
        return sum(known) if len(known) == len(freed) else None

    def settled(self, now: Mapping[int, Sample]) -> bool:
        """Whether it has given back what it should on every device."""
        return all(one.settled(now[device]) for device, one in self._measured.items())

    def gone_by_own_figure(self, now: Mapping[int, Sample]) -> bool:
        """Whether its own processes hold nothing any more on any of them, whatever the devices show."""
        return all(one.gone_by_own_figure(now[device]) for device, one in self._measured.items())
