"""Does loading beside a lease slow down who works? Measured, so that it is done only where it costs little.

Leases with a load beside them are longer than others for a reason of their own: the longer one stands, the likelier
somebody comes for whom something has to be loaded. So like is compared with like: every lease is drawn to allow a load
beside it or not, and of both kinds only those count to which somebody came.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from gpumand.domain.consumer import Overlap, Policy, SchedulerSettings
from gpumand.domain.device import Devices

LEAST_COUNT = 10
"""So many leases of each kind are looked at before anything is concluded; until then they take turns."""

MOST_SLOWDOWN = 1.2
"""Working a fifth longer is what loading early may cost."""

EVERY = 10
"""Afterwards every so many-th lease is of the other kind: drivers and disks change, and so may the conclusion."""

KEEP = 0.98
"""What an earlier lease counts when another one has been seen: some fifty count."""

_BOUND = math.log(8.0)
"""A lease that stands eight times as long as usual had more to do; nothing is learned from how much more."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Leases of one kind: how long they stood by how long such leases stand usually, as logarithms.

    Attributes:
        count: how many, the older ones counting less.
        total, squares: sums of the logarithms and of their squares.
    """

    count: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def observed(self, logarithm: float) -> Kind:
        """With one more."""
        return Kind(self.count * KEEP + 1.0, self.total * KEEP + logarithm, self.squares * KEEP + logarithm * logarithm)

    @property
    def mean(self) -> float:
        """Of the logarithms; 0 without any."""
        return self.total / self.count if self.count else 0.0

    @property
    def error(self) -> float:
        """Standard error of the mean, squared."""
        return max(0.0, self.squares / self.count - self.mean**2) / self.count if self.count else 0.0


@dataclass(frozen=True, slots=True)
class Slowdown:
    """How much longer leases stand that had a load beside them.

    Attributes:
        beside: leases with a load beside them.
        alone: leases that would have had one, had it been allowed.
        drawn: how many leases were drawn.
    """

    beside: Kind = field(default_factory=Kind)
    alone: Kind = field(default_factory=Kind)
    drawn: int = 0

    def observed(self, seconds: float, usual_sec: float, *, beside: bool) -> Slowdown:
        """With one more lease; one of which nobody knows how long it stands usually says nothing."""
        if usual_sec <= 0.0 or seconds <= 0.0:
            return self
        logarithm = min(_BOUND, max(-_BOUND, math.log(seconds / usual_sec)))
        if beside:
            return replace(self, beside=self.beside.observed(logarithm))
        return replace(self, alone=self.alone.observed(logarithm))

    @property
    def factor(self) -> float:
        """How many times as long; 1 = no slowdown."""
        return math.exp(self.beside.mean - self.alone.mean)

    @property
    def is_known(self) -> bool:
        """Whether enough was seen to conclude anything."""
        return min(self.beside.count, self.alone.count) >= LEAST_COUNT

    @property
    def is_worth_it(self) -> bool:
        """Whether it was not seen to cost too much, by more than chance."""
        error = math.sqrt(self.beside.error + self.alone.error)
        return not self.is_known or math.log(self.factor) - error <= math.log(MOST_SLOWDOWN)

    def draw(self) -> tuple[bool, Slowdown]:
        """Whether the next lease may have a load beside it, and what is known after that."""
        after = replace(self, drawn=self.drawn + 1)
        if not self.is_known:
            return self.drawn % 2 == 0, after
        return (self.drawn % EVERY != 0) == self.is_worth_it, after


@dataclass(slots=True)
class _Standing:
    devices: Devices
    may: bool
    was_wanted: bool = False


class Overlapping:
    """Which leases may have loads beside them. Owned by whoever grants leases."""

    def __init__(self) -> None:
        self.slowdown = Slowdown()
        self._leases: dict[str, _Standing] = {}

    def began(self, lease: str, devices: Devices) -> None:
        """A lease stands; it is drawn."""
        may, self.slowdown = self.slowdown.draw()
        self._leases[lease] = _Standing(devices, may)

    def wanted(self, devices: Devices) -> None:
        """Somebody came for whom something would be loaded beside the leases on any of these devices."""
        for standing in self._leases.values():
            standing.was_wanted |= not set(devices).isdisjoint(standing.devices)

    def ended(self, lease: str, seconds: float, usual_sec: float) -> None:
        """A lease has ended after so long; leases on its consumer usually stand ``usual_sec`` (0 = not known)."""
        standing = self._leases.pop(lease, None)
        if standing is not None and standing.was_wanted:
            self.slowdown = self.slowdown.observed(seconds, usual_sec, beside=standing.may)

    def devices(self, settings: SchedulerSettings, devices: Iterable[int]) -> frozenset[int]:
        """Those on which loads may run beside leases now."""
        if settings.policy is not Policy.ADAPTIVE or settings.overlap is Overlap.OFF:
            return frozenset()
        if settings.overlap is Overlap.ON:
            return frozenset(devices)
        refused = {device for standing in self._leases.values() if not standing.may for device in standing.devices}
        used = {device for standing in self._leases.values() for device in standing.devices}
        return frozenset(one for one in devices if one not in refused and (one in used or self.slowdown.is_worth_it))
