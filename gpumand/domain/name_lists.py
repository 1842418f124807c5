"""Lists of names as text."""

from __future__ import annotations

from collections.abc import Sequence

MAX_NAMES = 6
"""A message lists at most this many names; a longer list is cut off with "and N more"."""


def join_names(names: Sequence[str]) -> str:
    """Join names with commas; beyond ``MAX_NAMES`` only their number is given."""
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
