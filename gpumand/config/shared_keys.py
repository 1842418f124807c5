"""What descriptions of keys are made of: bounds, and kinds of values that several tables have."""

from __future__ import annotations

import dataclasses
from typing import Any

from gpumand.config import validators
from gpumand.config.value_types import Decimal, Flag, OneOf, Pairs, Text, Whole

MAX_MIB = 16 * 1024 * 1024
"""16 TiB: no device has more, so a larger figure is a slip of the unit."""

MAX_DEVICES = 64

MAX_SEC = 86400.0
"""A day: a longer timeout is a slip of the unit."""


def default_of(owner: Any, name: str) -> Any:
    """The default of a field of one of the domain's dataclasses."""
    return next(one.default for one in dataclasses.fields(owner) if one.name == name)


def seconds(low: float = 0.0, high: float = MAX_SEC) -> Decimal:
    """A time; a lower end of 0 is not a time to wait for anything and not included."""
    return Decimal(low, high, above=low == 0.0)


def equals() -> OneOf:
    """A value to compare with."""
    return OneOf((Flag(), Whole(-(2**63), 2**63 - 1), Text()), "boolean, whole number or text")


def headers() -> Pairs:
    """HTTP headers."""
    return Pairs(Text("header name", validators.header_name), Text("header value", most=8192))
