"""What a consumer's memory was seen to be: learned from figures, one stay in VRAM after the other.

A *stay* is the time from a consumer's becoming resident to its leaving. Of each stay two figures count: what it held
while nothing moved (steady), and the most it ever held (peak). Steady figures are averaged, newer ones counting more;
of peaks the highest of the last stays counts, since what did not fit once will not fit again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gpumand.domain.moving_average import averaged

AT_REST_SEC = 5.0
"""Memory that has not moved for so long is what the consumer holds while it rests."""

PEAKS_KEPT = 8
"""Stays whose peaks count: a model that has become smaller is believed after so many loads."""

OFF_BY = 0.1
"""A declared footprint that is further from what was measured than this is wrong."""

_MOST_MIB = 2**40
_MOST_STAYS = 2**53


@dataclass(frozen=True, slots=True)
class Footprint:
    """What was learned of one consumer's memory.

    Attributes:
        steady_mib: what it holds while it rests in VRAM, averaged over stays; None when never seen.
        peaks_mib: the most it held in each of its last stays, the newest last.
        residual_mib: what it held after its unload route had done its work, averaged; None when never seen.
        stays: how many stays were measured.
    """

    steady_mib: float | None = None
    peaks_mib: tuple[int, ...] = ()
    residual_mib: float | None = None
    stays: int = 0

    @property
    def peak_mib(self) -> int | None:
        """The most it held in its last stays."""
        return max(self.peaks_mib, default=None)

    def with_stay(self, steady_mib: int, peak_mib: int) -> Footprint:
        """With one more stay. One that goes on is added anew each time, to what was known before it began."""
        return replace(
            self,
            steady_mib=averaged(self.steady_mib, steady_mib),
            peaks_mib=(*self.peaks_mib, max(steady_mib, peak_mib))[-PEAKS_KEPT:],
            stays=self.stays + 1,
        )

    def with_residual(self, residual_mib: int) -> Footprint:
        """With one more look at what stayed after an unload."""
        return replace(self, residual_mib=averaged(self.residual_mib, residual_mib))

    def contradicts(self, declared_mib: int) -> bool:
        """Whether a declared footprint is off by more than a tenth."""
        return self.peak_mib is not None and abs(self.peak_mib - declared_mib) > OFF_BY * declared_mib

    def to_record(self) -> dict[str, Any]:
        """As plain values, to be kept."""
        return {
            "steady_mib": self.steady_mib,
            "peaks_mib": list(self.peaks_mib),
            "residual_mib": self.residual_mib,
            "stays": self.stays,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Footprint:
        """Read back what was kept, which anybody may have written. Raises ValueError."""
        peaks = record.get("peaks_mib", [])
        if not isinstance(peaks, list) or len(peaks) > PEAKS_KEPT:
            raise ValueError("peaks_mib is no short list")
        stays = record.get("stays", 0)
        if not _is_number(stays, _MOST_STAYS) or not isinstance(stays, int):
            raise ValueError("stays is no count")
        return cls(
            steady_mib=_mib(record, "steady_mib"),
            peaks_mib=tuple(int(one) for one in peaks if _is_number(one, _MOST_MIB) and one >= 1),
            residual_mib=_mib(record, "residual_mib"),
            stays=stays,
        )


def _mib(record: Mapping[str, Any], key: str) -> float | None:
    value = record.get(key)
    if value is None:
        return None
    if not _is_number(value, _MOST_MIB):
        raise ValueError(f"{key} is no figure")
    return float(value)


def _is_number(value: Any, most: float) -> bool:
    """NaN compares to nothing, so it is none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most
