"""Checks by VRAM readings whether an eviction has freed its memory. An HTTP 200 or a stopped process proves nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.device import Pool, Sample
from gpumand.domain.residency import holds_model

SLACK_MIB = 64
"""Amounts this close count as equal: drivers round, and CUDA contexts vary a little."""

UNIFIED_SLACK = 4
"""How many times as close they need to be where the pool is host RAM."""


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
        is_open: neither what it holds nor what it needs is known, and unnamed memory may be its own: no amount proves
            that it was freed.
    """

    spec: ConsumerSpec
    before: Sample
    held_before_mib: int | None
    expected_mib: int
    residual_mib: int = 0
    tolerated_mib: int = 0
    is_open: bool = False

    @property
    def can_be_measured(self) -> bool:
        """Whether there was any reading beforehand that a later one can be compared with."""
        return self.held_before_mib is not None or self.before.free_mib is not None

    def proves_nothing(self, now: Sample) -> bool:
        """Whether the device was read, but neither its own processes nor the device can show what was released.

        That is so while a card is asleep, and where the pool is host RAM, if the source lists no processes. Then only
        the end of the consumer's processes proves that it holds nothing.
        """
        is_read = self.before.is_measured and now.is_measured
        return is_read and self._held_now_mib(now) is None and self.device_mib(now) is None

    def freed_mib(self, now: Sample) -> int | None:
        """MiB freed so far: by its own processes where they are known, else by the device; None = unknown."""
        held_now_mib = self._held_now_mib(now)
        if self.held_before_mib is not None and held_now_mib is not None:
            own_mib = max(0, self.held_before_mib - held_now_mib)
            return own_mib + self._unnamed_freed_mib(now, own_mib)
        device_mib = self.device_mib(now)
        return None if device_mib is None else max(0, device_mib)

    def _unnamed_freed_mib(self, now: Sample, own_mib: int) -> int:
        """MiB of unnamed memory freed beside its processes' own: only the device shows that."""
        unnamed_mib = self.expected_mib + self.residual_mib - (self.held_before_mib or 0)
        device_mib = self.device_mib(now)
        return 0 if unnamed_mib <= 0 or device_mib is None else min(unnamed_mib, max(0, device_mib - own_mib))

    def settled(self, now: Sample) -> bool:
        """Whether the victim has freed what it should, and the device shows it as free."""
        device_mib = self.device_mib(now)
        if self._held_now_mib(now) is None:
            return not self.is_open and device_mib is not None and device_mib >= self.expected_mib - self._slack_mib
        # A process can leave NVML's list before the driver has freed its memory, and one in a container can leave it
        # without freeing anything. So its own number is not enough: at least half must be visible as free.
        return self.released_by_processes(now) and (
            device_mib is None or device_mib >= self.must_show_mib // 2 - SLACK_MIB
        )

    @property
    def must_show_mib(self) -> int:
        """MiB that the device must show as free: what its named processes held, or else what it should free.

        A consumer whose named processes hold no model has it in memory that the driver does not name.
        """
        if self.held_before_mib is None or not holds_model(self.spec, self.held_before_mib):
            return self.expected_mib
        return min(self.expected_mib, max(0, self.held_before_mib - self.residual_mib))

    def only_residual_left(self, now: Sample) -> bool:
        """Whether no more than a tolerated residual is left, which an unload by route does not free."""
        held_now_mib, left_mib = self._held_now_mib(now), self.tolerated_mib + SLACK_MIB
        device_mib = self.device_mib(now)
        if device_mib is None:
            return held_now_mib is not None and held_now_mib <= left_mib
        if held_now_mib is None or self.held_before_mib is None:
            return not self.is_open and device_mib >= self.expected_mib - left_mib
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

    def device_mib(self, now: Sample) -> int | None:
        """MiB that became free on the device; None where that is unknown or proves nothing."""
        if not (self.before.proves_release and now.proves_release):
            return None
        if self.before.pool is Pool.VRAM:
            return _difference(now.free_mib, self.before.free_mib)
        # Free memory of a unified pool is bounded by host RAM, which every program moves: what the GPU uses counts.
        return _difference(self.before.used_mib, now.used_mib)

    @property
    def _slack_mib(self) -> int:
        slack_mib = max(SLACK_MIB, self.expected_mib // 20)
        return slack_mib if self.before.pool is Pool.VRAM else UNIFIED_SLACK * slack_mib


def _difference(larger: int | None, smaller: int | None) -> int | None:
    return None if larger is None or smaller is None else larger - smaller


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
    def is_open(self) -> bool:
        """Whether on some device no amount proves that the memory was freed."""
        return any(check.is_open for check in self._measurable.values())

    @property
    def can_be_measured(self) -> bool:
        """Whether any device had a reading beforehand that a later one can be compared with."""
        return bool(self._measurable)

    def proves_nothing(self, now: Mapping[int, Sample]) -> bool:
        """Whether no device can show what was released, although the devices are read."""
        return bool(self.checks) and all(check.proves_nothing(now[device]) for device, check in self.checks.items())

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
