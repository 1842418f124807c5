"""``[gpu] source = "none"``: no figures at all, said plainly."""

from __future__ import annotations

from gpumand.domain.device import Reading, Sample
from gpumand.ports import Clock
from gpumand.vram.reading_time import ReadingTime

ERROR = "no-source: no VRAM source is configured; declared footprints are used"


class NoSource:
    """One device of which at most the configured size is known."""

    name: str = "none"

    def __init__(self, total_mib: int | None, clock: Clock) -> None:
        """Take the size of device 0 in MiB, None when not configured."""
        self._total_mib = total_mib
        self._clock = clock

    async def read(self) -> Reading:
        """The device without figures; see VramSource."""
        stamp = ReadingTime.now(self._clock)
        sample = Sample(
            index=0,
            uuid="none",
            name="no VRAM source",
            source=self.name,
            total_mib=self._total_mib,
            used_mib=None,
            free_mib=None,
            taken_at=stamp.monotonic,
            sampled_usec=stamp.realtime_usec,
            error=ERROR,
        )
        return Reading((sample,), ERROR)

    def renew(self) -> None:
        """There is nothing to begin with."""

    async def close(self) -> None:
        """Nothing to give back."""
