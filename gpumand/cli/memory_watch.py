"""Watches the memory of a consumer for ``gpumanctl calibrate``: when it is constant, and whether a model was loaded."""

from __future__ import annotations

from dataclasses import dataclass

from gpumand.domain.eviction_check import SLACK_MIB
from gpumand.domain.load_evidence import IDLE_MIB, grew_by_a_model


@dataclass(frozen=True, slots=True)
class Reading:
    """What the daemon reports of the consumer at one moment.

    Attributes:
        held_mib: memory that its processes hold, in MiB; None when unknown.
        read_usec: time stamp of the VRAM reading, in microseconds.
        working: the consumer reports work.
    """

    held_mib: int | None
    read_usec: int
    working: bool = False


@dataclass
class StabilityDetector:
    """Detects that the memory of a consumer has stopped changing while it does no work.

    Attributes:
        stable_sec: how long it must not change, in seconds.
        peak_mib: the largest value so far.
    """

    stable_sec: float
    peak_mib: int = 0
    _reference_mib: int = -1
    _since_sec: float = 0.0
    _read_usec: int = -1

    def add(self, used_mib: int, read_usec: int, now_sec: float, *, working: bool = False) -> bool:
        """Add a reading and return whether the memory has been stable for long enough.

        Args:
            used_mib: memory that the consumer holds.
            read_usec: time stamp of the reading.
            now_sec: current time of the monotonic clock.
            working: the consumer reports work.
        """
        self.peak_mib = max(self.peak_mib, used_mib)
        if working or abs(used_mib - self._reference_mib) > SLACK_MIB or self._reference_mib < 0:
            self._reference_mib, self._since_sec, self._read_usec = used_mib, now_sec, read_usec
        # Polling the same reading again proves nothing: a newer one has to confirm the value.
        return read_usec != self._read_usec and now_sec - self._since_sec >= self.stable_sec


@dataclass
class LoadWatch:
    """Decides whether a model was loaded, for a consumer that loads with its first request.

    Attributes:
        base_mib: memory at rest before the request, in MiB; None until it was at rest.
        peak_mib: the most memory so far, in MiB.
        worked: the consumer has reported work.
        used: the command that uses the consumer has ended successfully.
    """

    base_mib: int | None = None
    peak_mib: int = 0
    worked: bool = False
    used: bool = False
    _first_mib: int | None = None

    def add(self, reading: Reading) -> None:
        """Add a reading."""
        self.worked = self.worked or reading.working
        if reading.held_mib is None:
            return
        self.peak_mib = max(self.peak_mib, reading.held_mib)
        if self._first_mib is None:
            self._first_mib = reading.held_mib

    @property
    def load_seen(self) -> bool:
        """Whether what was observed shows a loaded model.

        Work, or a command, is not enough where the memory stays that of an idle server: the work may have failed.
        """
        if self._first_mib is not None and self.peak_mib - self._first_mib > IDLE_MIB:
            return True  # a request came before the memory was at rest
        if self.base_mib is None:
            return False
        has_grown = self.peak_mib - self.base_mib > SLACK_MIB
        had_model = self.base_mib > IDLE_MIB
        return grew_by_a_model(self.base_mib, self.peak_mib) or (
            (self.worked or self.used) and (has_grown or had_model)
        )
