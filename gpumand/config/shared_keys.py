"""Bounds and value types that several configuration tables share."""

from __future__ import annotations

import dataclasses
from typing import Any

from gpumand.config import validators
from gpumand.config.quantities import Seconds
from gpumand.config.value_types import Boolean, Integer, OneOf, StringTable, Text

MAX_MIB = 16 * 1024 * 1024
"""Upper bound of sizes in MiB (16 TiB). No device has more, so a larger number was written in another unit."""

MAX_DEVICES = 64

MAX_SEC = 86400.0
"""Upper bound of times in seconds (one day). A longer timeout was written in another unit."""


def default_of(owner: Any, name: str) -> Any:
    """Return the default of a field of a dataclass in ``gpumand.domain``."""
    return next(one.default for one in dataclasses.fields(owner) if one.name == name)


def seconds(low: float = 0.0, high: float = MAX_SEC) -> Seconds:
    """Return the value type of a time in seconds; a lower bound of 0 is excluded, because a wait of 0 s is useless."""
    return Seconds(low, high, above=low == 0.0)


def equals() -> OneOf:
    """Return the value type of a value that a response is compared with."""
    return OneOf((Boolean(), Integer(-(2**63), 2**63 - 1), Text()), "boolean, whole number or text")


def headers() -> StringTable:
    """Return the value type of a table of HTTP headers."""
    return StringTable(Text("header name", validators.header_name), Text("header value", max_length=8192))
