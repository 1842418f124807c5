"""Names that somebody got wrong, and what was probably meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from gpumand.domain.errors import NoSuchConsumer

MAX_COMPARED = 64
"""Letters of a wrong name that are looked at: comparing takes the longer, the longer the name is."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that was probably meant, whatever the case of its letters, or ""."""
    by_folded = {one.casefold(): one for one in sorted(known, reverse=True)}
    near = get_close_matches(name[:MAX_COMPARED].casefold(), sorted(by_folded), n=1)
    return by_folded[near[0]] if near else ""


def no_such_consumer(name: str, known: Iterable[str]) -> NoSuchConsumer:
    """The refusal of a name that no consumer has."""
    near = nearest(name, known)
    return NoSuchConsumer(f"no consumer is named {name!r}" + (f"; did you mean {near}?" if near else ""))
