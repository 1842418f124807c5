"""Measures whether loading a consumer during another one's lease slows that lease down, so that it is done only if not.

Leases during which a load runs are longer than others for a reason of their own: the longer a lease is, the likelier a
request arrives for which something must be loaded. So like is compared with like: each lease is assigned at its start
to allow such a load or not, and in both groups only the leases during which a load was requested count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from gpumand.domain.consumer import Overlap, Policy, SchedulerSettings
from gpumand.domain.device import Devices

MIN_COUNT = 10
"""Each group needs this many leases before anything is concluded; until then leases alternate between the groups."""

MAX_SLOWDOWN = 1.2
"""Early loads are accepted while they make leases at most a fifth longer."""

PROBE_EVERY = 10
"""Afterwards every tenth lease goes to the other group: drivers and disks change, and so may the conclusion."""

DECAY = 0.98
"""The weight of earlier leases is multiplied by this with each new one, so that about fifty count."""

_MAX_LOG_RATIO = math.log(8.0)
"""A lease eight times as long as usual had more work to do; a larger ratio is cut off here."""


@dataclass(frozen=True, slots=True)
class LeaseGroup:
    """The leases of one group: logarithms of their length relative to the usual length of such leases.

    Attributes:
        count: how many, older ones counting less.
        total, squares: sums of the logarithms and of their squares.
    """

    count: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def observed(self, logarithm: float) -> LeaseGroup:
        """The group with one more lease."""
        return LeaseGroup(
            self.count * DECAY + 1.0, self.total * DECAY + logarithm, self.squares * DECAY + logarithm * logarithm
        )

    @property
    def mean(self) -> float:
        """Mean of the logarithms; 0 without any."""
        return self.total / self.count if self.count else 0.0

    @property
    def squared_error(self) -> float:
        """The square of the standard error of the mean."""
        return max(0.0, self.squares / self.count - self.mean**2) / self.count if self.count else 0.0


@dataclass(frozen=True, slots=True)
class Slowdown:
    """How much longer leases are while a load runs during them.

    Attributes:
        overlapped: leases during which a load ran.
        alone: leases during which a load was requested and not allowed.
        assigned: how many leases have been assigned to a group.
    """

    overlapped: LeaseGroup = field(default_factory=LeaseGroup)
    alone: LeaseGroup = field(default_factory=LeaseGroup)
    assigned: int = 0

    def observed(self, seconds: float, usual_sec: float, *, overlapped: bool) -> Slowdown:
        """The measurement with one more lease; a lease whose usual length is unknown does not count.

        Args:
            seconds: how long the lease was.
            usual_sec: how long leases on its consumer usually are; 0 = unknown.
            overlapped: the group that it was assigned to.
        """
        if usual_sec <= 0.0 or seconds <= 0.0:
            return self
        logarithm = min(_MAX_LOG_RATIO, max(-_MAX_LOG_RATIO, math.log(seconds / usual_sec)))
        if overlapped:
            return replace(self, overlapped=self.overlapped.observed(logarithm))
        return replace(self, alone=self.alone.observed(logarithm))

    @property
    def factor(self) -> float:
        """How many times as long leases are; 1 = no slowdown."""
        return math.exp(self.overlapped.mean - self.alone.mean)

    @property
    def is_known(self) -> bool:
        """Whether enough leases were observed to conclude anything."""
        return min(self.overlapped.count, self.alone.count) >= MIN_COUNT

    @property
    def is_acceptable(self) -> bool:
        """Whether no slowdown above ``MAX_SLOWDOWN`` was measured beyond the standard error."""
        error = math.sqrt(self.overlapped.squared_error + self.alone.squared_error)
        return not self.is_known or math.log(self.factor) - error <= math.log(MAX_SLOWDOWN)

    def assign(self) -> tuple[bool, Slowdown]:
        """Whether the next lease may be overlapped, and the measurement after this assignment."""
        after = Slowdown(self.overlapped, self.alone, self.assigned + 1)
        if not self.is_known:
            return self.assigned % 2 == 0, after
        return (self.assigned % PROBE_EVERY != 0) == self.is_acceptable, after


@dataclass(slots=True)
class _ActiveLease:
    devices: Devices
    may_overlap: bool
    load_requested: bool = False


class OverlapExperiment:
    """Which active leases allow loads during them, and the measurement of what that costs."""

    def __init__(self) -> None:
        self.slowdown = Slowdown()
        self._leases: dict[str, _ActiveLease] = {}

    def lease_started(self, lease: str, devices: Devices) -> None:
        """Assign a new lease to one of the two groups."""
        may_overlap, self.slowdown = self.slowdown.assign()
        self._leases[lease] = _ActiveLease(devices, may_overlap)

    def load_requested(self, devices: Devices) -> None:
        """Note that a load could run during the leases on any of these devices, whether it is allowed or not."""
        for active in self._leases.values():
            active.load_requested |= not set(devices).isdisjoint(active.devices)

    def lease_ended(self, lease: str, seconds: float, usual_sec: float) -> None:
        """Count a lease that has ended; see ``Slowdown.observed`` for the seconds."""
        ended = self._leases.pop(lease, None)
        if ended is not None and ended.load_requested:
            self.slowdown = self.slowdown.observed(seconds, usual_sec, overlapped=ended.may_overlap)

    def devices_allowed(self, settings: SchedulerSettings, devices: Iterable[int]) -> frozenset[int]:
        """The devices on which loads may run during leases now."""
        if settings.policy is not Policy.ADAPTIVE or settings.overlap is Overlap.OFF:
            return frozenset()
        if settings.overlap is Overlap.ON:
            return frozenset(devices)
        # On a device without an active lease nothing is assigned yet: the measurement so far decides.
        refused = {device for active in self._leases.values() if not active.may_overlap for device in active.devices}
        leased = {device for active in self._leases.values() for device in active.devices}
        return frozenset(
            device for device in devices if device not in refused and (device in leased or self.slowdown.is_acceptable)
        )
