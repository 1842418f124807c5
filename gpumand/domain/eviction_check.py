"""Checks by VRAM readings whether an eviction has freed its memory. An HTTP 200 or a stopped process proves nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.device import Sample

SLACK_MIB = 64
"""Amounts this close count as equal: drivers round, and CUDA contexts vary a little."""


@dataclass(frozen=True, slots=True)
class EvictionCheck:
    """What an eviction is measured against, on one device.

    Attributes:
        spec: the victim.
        before: the device's sample before the first method was tried.
        held_before_mib: MiB that its processes held then; None where they cannot be distinguished from others.
        expected_mib: MiB that it should free.
        residual_mib: MiB that are expected to stay.
        tolerated_mib: MiB that may stay after an unload by route without the eviction having failed.
    """

    spec: ConsumerSpec
    before: Sample
    held_before_mib: int | None
    expected_mib: int
    residual_mib: int = 0
    tolerated_mib: int = 0

    @property
    def can_be_measured(self) -> bool:
        """Whether there was any reading beforehand that a later one can be compared with."""
        return self.held_before_mib is not None or self.before.free_mib is not None

    def freed_mib(self, now: Sample) -> int | None:
        """MiB freed so far: by its own processes where they are known, else by the device; None = unknown."""
        held_now_mib = self._held_now_mib(now)
        if self.held_before_mib is not None and held_now_mib is not None:
            return max(0, self.held_before_mib - held_now_mib)
        if self.before.free_mib is None or now.free_mib is None:
            return None
        return max(0, now.free_mib - self.before.free_mib)

    def settled(self, now: Sample) -> bool:
        """Whether the victim has freed what it should, and the device shows it as free."""
        device_mib = None
        if self.before.free_mib is not None and now.free_mib is not None:
            device_mib = now.free_mib - self.before.free_mib
        if self._held_now_mib(now) is None:
            return device_mib is not None and device_mib >= self.expected_mib - self._slack_mib
        # A process can leave NVML's list before the driver has freed its memory, and one in a container can leave it
        # without freeing anything. So its own number is not enough: at least half must be visible as free.
        return self.released_by_processes(now) and (
            device_mib is None or device_mib >= self.expected_mib // 2 - SLACK_MIB
        )

    def only_residual_left(self, now: Sample) -> bool:
        """Whether no more than a tolerated residual is left, which an unload by route does not free."""
        held_now_mib, left_mib = self._held_now_mib(now), self.tolerated_mib + SLACK_MIB
        if self.before.free_mib is None or now.free_mib is None:
            return held_now_mib is not None and held_now_mib <= left_mib
        device_mib = now.free_mib - self.before.free_mib
        if held_now_mib is None or self.held_before_mib is None:
            return device_mib >= self.expected_mib - left_mib
        gone_mib = max(0, self.held_before_mib - held_now_mib)
        return held_now_mib <= left_mib and device_mib >= gone_mib // 2 - SLACK_MIB

    def released_by_processes(self, now: Sample) -> bool:
        """Whether its own processes hold nothing any more, whatever the device shows.

        This decides when the time is up: another process may have taken the freed memory.
        """
        held_now_mib = self._held_now_mib(now)
        return held_now_mib is not None and held_now_mib <= self.residual_mib + self._slack_mib

    def _held_now_mib(self, now: Sample) -> int | None:
        return None if self.held_before_mib is None else now.held_by(self.spec.name)

    @property
    def _slack_mib(self) -> int:
        return max(SLACK_MIB, self.expected_mib // 20)


@dataclass(frozen=True, slots=True)
class MultiDeviceEvictionCheck:
    """The same for a consumer on several devices: its memory must be free on every one of them.

    A device that could not be read beforehand is not waited for, since later readings of it prove nothing.

    Attributes:
        spec: the victim.
        checks: the check of each device.
    """

    spec: ConsumerSpec
    checks: Mapping[int, EvictionCheck]

    @property
    def _measurable(self) -> Mapping[int, EvictionCheck]:
        return {device: check for device, check in self.checks.items() if check.can_be_measured}

    @property
    def is_known(self) -> bool:
        """Whether every device had a reading beforehand."""
        return all(check.before.is_measured for check in self.checks.values())

    @property
    def expected_mib(self) -> int:
        """MiB that it should free on all devices together."""
        return sum(check.expected_mib for check in self.checks.values())

    @property
    def can_be_measured(self) -> bool:
        """Whether any device had a reading beforehand that a later one can be compared with."""
        return bool(self._measurable)

    def freed_mib(self, now: Mapping[int, Sample]) -> int | None:
        """MiB freed so far on all devices together; None = unknown."""
        freed = [check.freed_mib(now[device]) for device, check in self._measurable.items()]
        known = [mib for mib in freed if mib is not None]
        return sum(known) if len(known) == len(freed) else None

    def settled(self, now: Mapping[int, Sample]) -> bool:
        """Whether the victim has freed what it should on every device."""
        return all(check.settled(now[device]) for device, check in self._measurable.items())

    def only_residual_left(self, now: Mapping[int, Sample]) -> bool:
        """Whether no more than a tolerated residual is left on any device."""
        return all(check.only_residual_left(now[device]) for device, check in self._measurable.items())

    def released_by_processes(self, now: Mapping[int, Sample]) -> bool:
        """Whether its own processes hold nothing any more on any device, whatever the devices show."""
        return all(check.released_by_processes(now[device]) for device, check in self._measurable.items())
