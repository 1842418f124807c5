"""Values of releasing the GPU driver: for a reset of a GPU, or for loading another driver."""

from __future__ import annotations

from dataclasses import dataclass

from gpumand.domain.device import ProcessUse

DEFAULT_RELEASE_SEC = 600.0
MAX_RELEASE_SEC = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class ReleaseOptions:
    """Options of a release of the driver.

    Attributes:
        duration_sec: when gpumand takes the driver again by itself.
        timeout_sec: how long to wait for loads and evictions that are running.
        force: release it although consumers are in VRAM or leased.
        bound: take it again when the client leaves the bus, too.
    """

    duration_sec: float = DEFAULT_RELEASE_SEC
    timeout_sec: float = 60.0
    force: bool = False
    bound: bool = False


@dataclass(frozen=True, slots=True)
class ReleaseReport:
    """The result of a release.

    Attributes:
        until_usec: when gpumand takes the driver again by itself, CLOCK_REALTIME in microseconds.
        holders: processes that use a GPU still, one entry for each device, so that a reset or an unload would fail.
    """

    until_usec: int
    holders: tuple[ProcessUse, ...] = ()
