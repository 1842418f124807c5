"""Which hosts of the fleet may use which operations of this host's agent."""

from __future__ import annotations

import re
from typing import Any

from gpumand.config.problems import Place, ProblemList, quoted
from gpumand.config.table_schema import INVALID, key, keys_table, type_name
from gpumand.config.value_types import Choice, InvalidValue, ListOf, Text
from gpumand.fleet.settings import ANY_CALLER, Right

MAX_ENTRIES = 64
_HOST = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def host_name(text: str) -> str:
    """Check the name of a host or a fleet: lower-case letters, digits and hyphens, as in DNS."""
    if not _HOST.fullmatch(text):
        hint = text.lower() if _HOST.fullmatch(text.lower()) else ""
        raise InvalidValue(f"{quoted(text)} is not a name: use up to 63 lower-case letters, digits and hyphens", hint)
    return text


def _caller(text: str) -> str:
    return text if text == ANY_CALLER else host_name(text)


_CALLER = Text('name of a host, or "*"', _caller)
_RIGHTS = ListOf(Choice(tuple(Right)), make=frozenset, single=True)


@keys_table
class AllowTable:
    """``[fleet.allow]``: one entry for each host, as in ``gpu2 = ["acquire", "plan"]``."""

    HOST: frozenset[str] = key(
        _RIGHTS,
        "Operations that the host of the entry may use here: acquire a consumer, plan an acquisition, load a consumer, "
        'and drain this host. The name is the first DNS name of the caller\'s certificate; "*" stands for every other '
        "host of the fleet. Without an entry, a host may use none of them.",
    )


def rights_of(raw: object, place: Place, problems: ProblemList) -> dict[str, frozenset[str]]:
    """Read ``[fleet.allow]``: the rights of each caller."""
    if raw is None:
        return {}
    if not isinstance(raw, dict) or len(raw) > MAX_ENTRIES:
        what = f"one with {len(raw)}" if isinstance(raw, dict) else type_name(raw)
        problems.add(place, f"must be a table with at most {MAX_ENTRIES} entries, not {what}")
        return {}
    read: dict[str, Any] = {
        _CALLER.read(name, place.at(name), problems): _RIGHTS.read(value, place.at(name), problems)
        for name, value in raw.items()
    }
    return {name: rights for name, rights in read.items() if INVALID not in (name, rights)}
