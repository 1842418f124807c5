"""Suggestions for misspelled names: the closest known name."""

from __future__ import annotations

from collections.abc import Iterable

from gpumand.domain.errors import NoSuchConsumer

MAX_COMPARED = 64
"""Characters of a wrong name that are compared: the name may come from a client, and long names are slow to compare."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name closest to a wrong one, ignoring case, or "" when none is close."""
    # The module costs 0.2 MiB, and wrong names are rare.
    from difflib import get_close_matches

    by_folded = {one.casefold(): one for one in sorted(known, reverse=True)}
    near = get_close_matches(name[:MAX_COMPARED].casefold(), sorted(by_folded), n=1)
    return by_folded[near[0]] if near else ""


def no_such_consumer(name: str, known: Iterable[str]) -> NoSuchConsumer:
    """The error for a name that no consumer has, with a suggestion where there is one."""
    near = nearest(name, known)
    return NoSuchConsumer(f"no consumer is named {name!r}" + (f"; did you mean {near}?" if near else ""))
