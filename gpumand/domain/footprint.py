"""The measured VRAM footprint of a consumer, learned from one stay in VRAM after the other.

A *stay* is the time from when a consumer becomes resident until it leaves VRAM. Each stay yields two values: the memory
held while usage is constant (steady), and the most memory held at any time (peak). Steady values are averaged, with
more weight on newer ones. Of the peaks, the highest of the last stays is used, since a load that once did not fit will
not fit the next time either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gpumand.domain.moving_average import update_mean

AT_REST_SEC = 5.0
"""Memory use that is constant for this many seconds is the steady value of the consumer."""

PEAKS_KEPT = 8
"""Number of stays whose peaks are kept: a model that became smaller lowers the footprint after this many loads."""

OFF_BY = 0.1
"""Share by which a declared footprint may differ from the measured one before it counts as wrong."""

_MAX_MIB = 2**40
_MAX_STAYS = 2**53


@dataclass(frozen=True, slots=True)
class Footprint:
    """The measured memory use of one consumer.

    Attributes:
        steady_mib: MiB held while resident and constant, averaged over stays; None when never measured.
        peaks_mib: peak MiB of each of the last stays, the newest last.
        residual_mib: MiB still held after an unload by the unload route, averaged; None when never measured.
        stays: number of measured stays.
    """

    steady_mib: float | None = None
    peaks_mib: tuple[int, ...] = ()
    residual_mib: float | None = None
    stays: int = 0

    @property
    def peak_mib(self) -> int | None:
        """The highest MiB of the last stays; None when never measured."""
        return max(self.peaks_mib, default=None)

    def with_stay(self, steady_mib: int, peak_mib: int) -> Footprint:
        """A copy with one more stay.

        A stay that is still going on is added repeatedly, each time to the footprint from before the stay began, so
        that it is counted once.
        """
        return replace(
            self,
            steady_mib=update_mean(self.steady_mib, steady_mib),
            peaks_mib=(*self.peaks_mib, max(steady_mib, peak_mib))[-PEAKS_KEPT:],
            stays=self.stays + 1,
        )

    def with_residual(self, residual_mib: int) -> Footprint:
        """A copy with one more measurement of the memory that remained after an unload."""
        return replace(self, residual_mib=update_mean(self.residual_mib, residual_mib))

    def contradicts(self, declared_mib: int) -> bool:
        """Whether a declared footprint differs from the measured peak by more than a tenth."""
        return self.peak_mib is not None and abs(self.peak_mib - declared_mib) > OFF_BY * declared_mib

    def agreeing_with(self, declared_mib: int) -> Footprint:
        """A copy without the stays that contradict a footprint that was declared after them.

        The administrator knows why it was corrected: the model was not loaded in those stays, or it is another one now.
        """
        kept = tuple(peak for peak in self.peaks_mib if not Footprint(peaks_mib=(peak,)).contradicts(declared_mib))
        if kept == self.peaks_mib:
            return self
        return replace(self, steady_mib=self.steady_mib if kept else None, peaks_mib=kept, stays=len(kept))

    def to_record(self) -> dict[str, Any]:
        """The footprint as plain values, to be stored."""
        return {
            "steady_mib": self.steady_mib,
            "peaks_mib": list(self.peaks_mib),
            "residual_mib": self.residual_mib,
            "stays": self.stays,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Footprint:
        """Read a stored record without trusting it. Raises ValueError when it is malformed."""
        peaks = record.get("peaks_mib", [])
        if not isinstance(peaks, list) or len(peaks) > PEAKS_KEPT:
            raise ValueError(f"peaks_mib is not a list of at most {PEAKS_KEPT} numbers")
        stays = record.get("stays", 0)
        if not _is_number(stays, _MAX_STAYS) or not isinstance(stays, int):
            raise ValueError("stays is not a count")
        return cls(
            steady_mib=_mib(record, "steady_mib"),
            peaks_mib=tuple(int(one) for one in peaks if _is_number(one, _MAX_MIB) and one >= 1),
            residual_mib=_mib(record, "residual_mib"),
            stays=stays,
        )


def _mib(record: Mapping[str, Any], key: str) -> float | None:
    value = record.get(key)
    if value is None:
        return None
    if not _is_number(value, _MAX_MIB):
        raise ValueError(f"{key} is not a number of MiB")
    return float(value)


def _is_number(value: Any, maximum: float) -> bool:
    # NaN, which JSON can contain, fails the comparison. A bool is an int in Python.
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= maximum
