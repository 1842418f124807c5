"""Lets values into a report only if they cannot contain anything private; everything else becomes a fixed word."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

WITHHELD = "(withheld)"
"""Stands for a value that is not what is expected at its place."""

UNKNOWN = "unknown"
MAX_NUMBER = 1 << 63

_VERSION = re.compile(r"\d{1,6}(\.\d{1,6}){0,4}")
_PRODUCT_WORD = re.compile(r"[A-Za-z0-9()\[\]+-]{1,24}(/[A-Za-z0-9+-]{1,12})*")
MAX_PRODUCT_WORDS = 10


def number(value: Any) -> int | None:
    """A whole number that is not negative; None for anything else, and for a value that is missing."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 <= value < MAX_NUMBER else None


def mib(value: Any) -> str:
    """An amount in MiB; "unknown" where there is none."""
    found = number(value)
    return UNKNOWN if found is None else f"{found} MiB"


def seconds(usec: Any) -> str:
    """A duration in seconds, from microseconds; "unknown" where there is none."""
    found = number(usec)
    return UNKNOWN if found is None else f"{found / 1e6:.2f} s"


def word(value: Any, known: Collection[str]) -> str:
    """One of the known words; "-" for an empty text."""
    return (str(value) if value in known else WITHHELD) if value else "-"


def yes(value: Any) -> str:
    """A truth value as "yes" or "no"; "unknown" for anything else."""
    return ("yes" if value else "no") if isinstance(value, bool) else UNKNOWN


def version(text: str) -> str:
    """The numbers at the beginning of a version: what follows may be the name of a host or of a person."""
    found = _VERSION.match(text)
    return found[0] if found else (WITHHELD if text else UNKNOWN)


def product(text: Any) -> str:
    """The name of a GPU product, as a driver reports it."""
    words = str(text).split()
    is_product = 0 < len(words) <= MAX_PRODUCT_WORDS and all(_PRODUCT_WORD.fullmatch(one) for one in words)
    return " ".join(words) if is_product else (WITHHELD if words else UNKNOWN)
