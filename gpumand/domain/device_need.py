"""What a load needs on each of its devices, compared with what is free there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gpumand.domain.device import Devices


@dataclass(frozen=True, slots=True)
class DeviceNeed:
    """MiB needed and free on one device; ``free_mib`` None = unknown."""

    device: int
    need_mib: int
    free_mib: int | None

    @property
    def short_mib(self) -> int:
        """MiB that are missing; 0 where enough is free or the free amount is unknown."""
        return 0 if self.free_mib is None else max(0, self.need_mib - self.free_mib)


def place_of(needs: Sequence[DeviceNeed]) -> Devices:
    """The devices of the load, together."""
    return tuple(need.device for need in needs)


def tightest_of(needs: Sequence[DeviceNeed]) -> DeviceNeed:
    """The device with least to spare; one whose free amount is unknown counts as having most."""
    return min(needs, key=lambda need: math.inf if need.free_mib is None else need.free_mib - need.need_mib)
