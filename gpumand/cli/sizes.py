"""Parses amounts of VRAM: ``12G``, ``12GiB``, ``12288M``; a bare number is MiB."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    _Type = click.ParamType[int]
else:  # in click 8.1 ParamType is not generic at run time
    _Type = click.ParamType

FACTORS = {"": 1.0, "m": 1.0, "g": 1024.0, "t": 1024.0 * 1024.0}
"""MiB in one unit. A factor is always 1024: VRAM is sold in GB and counted in GiB."""

MAX_MIB = 1 << 24
"""16 TiB. A larger amount is a typing error, and gpumand refuses it."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([mgt]?)(?:i?b)?", re.ASCII | re.IGNORECASE)


def parse_size(text: str) -> int:
    """The amount in MiB, rounded up.

    Raises:
        ValueError: the text is not an amount; its message is one line for the user.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or (not found[2] and not found[0].replace(".", "").isdigit()):
        raise ValueError(f"'{text}' is not an amount of VRAM; write, for example, 12G, 12GiB or 12288M")
    mib = math.ceil(float(found[1]) * FACTORS[found[2].lower()])
    if not 1 <= mib <= MAX_MIB:
        raise ValueError(f"'{text}' is not an amount of VRAM that is supported; it must be from 1M to 16T")
    return mib


class Size(_Type):
    """Click parameter type for an amount of VRAM; its value is in MiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the value; a usage error when it is not an amount."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


SIZE = Size()
