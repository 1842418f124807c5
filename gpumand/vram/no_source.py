"""Implements ``[gpu] source = "none"``: a source without readings."""

from __future__ import annotations

from gpumand.domain.device import Devices, Reading, Sample
from gpumand.ports import Clock
from gpumand.vram.reading_time import ReadingTime

ERROR = "no-source: no VRAM source is configured; declared footprints are used"


class NoSource:
    """A VramSource with one device, of which at most the configured size is known."""

    name: str = "none"

    def __init__(self, total_mib: int | None, clock: Clock, error: str = ERROR) -> None:
        """Create the source.

        Args:
            total_mib: size of device 0 in MiB; None if it is not configured.
            clock: current time, for samples.
            error: why there are no readings, as ``word: one line``.
        """
        self._total_mib = total_mib
        self._clock = clock
        self._error = error

    async def read(self, only: Devices = ()) -> Reading:
        """Return the device without readings; see VramSource."""
        reading_time = ReadingTime.now(self._clock)
        sample = Sample(
            index=0,
            uuid="none",
            name="no VRAM source",
            source=self.name,
            total_mib=self._total_mib,
            used_mib=None,
            free_mib=None,
            taken_at=reading_time.monotonic,
            sampled_usec=reading_time.realtime_usec,
            error=self._error,
        )
        return Reading((sample,), self._error)

    def reopen(self) -> None:
        """Do nothing: there is no driver."""

    async def close(self) -> None:
        """Do nothing: there is no library to release."""
