"""Value types of sizes in MiB and times in seconds, which suggest the number for a value in another unit."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from gpumand.config.problems import quoted
from gpumand.config.value_types import Integer, InvalidValue, Number

_MIB = {"m": 1, "mb": 1, "mib": 1, "g": 1024, "gb": 1024, "gib": 1024, "t": 1024**2, "tb": 1024**2, "tib": 1024**2}
"""MiB in one unit. VRAM is sold and shown in binary units, whatever the spelling."""

_SEC = {
    "ms": 1e-3,
    "msec": 1e-3,
    "s": 1,
    "sec": 1,
    "secs": 1,
    "second": 1,
    "seconds": 1,
    "m": 60,
    "min": 60,
    "mins": 60,
    "minute": 60,
    "minutes": 60,
    "h": 3600,
    "hr": 3600,
    "hour": 3600,
    "hours": 3600,
    "d": 86400,
    "day": 86400,
    "days": 86400,
}
_NUMBER = r"([0-9]{1,12}(?:[.,][0-9]{1,6})?)"
_SIZE = re.compile(_NUMBER + r"\s*([a-z]{0,3})", re.ASCII)
_PART = re.compile(_NUMBER + r"\s*([a-z]{0,7})\s*", re.ASCII)
_MAX_TEXT = 40
_BYTES_IN_MIB = 1024 * 1024
_LEAST_BYTES = 64 * _BYTES_IN_MIB
"""A smaller number is no plausible size in bytes."""

_MOST_GIB = 512
"""A smaller number with decimals is a size in GiB: a program that uses a GPU holds more MiB than that."""


@dataclass(frozen=True, slots=True)
class Mib(Integer):
    """A size in MiB."""

    def accept(self, value: Any) -> int:
        try:
            return Integer.accept(self, value)
        except InvalidValue as refused:
            suggested = suggested_mib(value)
            if suggested is None or not self.low <= suggested <= self.high:
                raise
            raise InvalidValue(_mib_message(str(refused), value, suggested)) from None


@dataclass(frozen=True, slots=True)
class Seconds(Number):
    """A time in seconds."""

    def accept(self, value: Any) -> float:
        try:
            return Number.accept(self, value)
        except InvalidValue:
            suggested = suggested_sec(value)
            if suggested is None or not self.low <= suggested <= self.high or (self.above and suggested == self.low):
                raise
            message = f"must be a number of seconds, not {quoted(value)}: write {suggested:.10g}, in seconds"
            raise InvalidValue(message) from None


def _mib_message(refusal: str, value: object, suggested: int) -> str:
    if isinstance(value, str):
        return f"must be a whole number of MiB, not {quoted(value)}: write {suggested}, in MiB"
    is_gib = isinstance(value, float) and value < _MOST_GIB
    unit = "if that is in GiB, " if is_gib else "" if isinstance(value, float) else "if that is in bytes, "
    return f"{refusal}: {unit}write {suggested}, in MiB"


def suggested_mib(value: object) -> int | None:
    """Return the MiB that a refused value probably means: a size with a unit, or a number of bytes; else None."""
    if isinstance(value, int) and not isinstance(value, bool):
        return math.ceil(value / _BYTES_IN_MIB) if _LEAST_BYTES <= value < 2**63 else None
    if isinstance(value, float):
        return math.ceil(value * (1024 if value < _MOST_GIB else 1)) if 0 < value < 2**63 else None
    match = _SIZE.fullmatch(value.strip().lower()) if isinstance(value, str) and len(value) <= _MAX_TEXT else None
    return math.ceil(_number(match[1]) * _MIB[match[2]]) if match is not None and match[2] in _MIB else None


def suggested_sec(value: object) -> float | None:
    """Return the seconds that a refused text probably means, such as ``5min`` or ``1h 30m``; else None."""
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        return None
    text = value.strip().lower()
    parts: list[tuple[str, str]] = _PART.findall(text)
    is_whole = "".join(number + unit for number, unit in parts) == re.sub(r"\s", "", text)
    if not parts or not is_whole or any(unit not in _SEC for _, unit in parts):
        return None
    return sum(_number(number) * _SEC[unit] for number, unit in parts)


def _number(text: str) -> float:
    return float(text.replace(",", "."))
