"""What happened, as it is kept and asked for later."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class EntryKind(StrEnum):
    """What kind of thing happened."""

    GRANT = "grant"
    END = "end"
    REFUSAL = "refusal"
    LOAD = "load"
    LOAD_FAILED = "load-failed"
    EVICTION = "eviction"
    EVICTION_FAILED = "eviction-failed"


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened.

    Attributes:
        at_usec: when it was over, CLOCK_REALTIME.
        kind: what it was.
        consumer: to whom.
        device: index as text, "" when no device is known.
        duration_usec: how long it took: the wait of a grant, the life of a lease that ended, a load, an eviction; None
            where that says nothing.
        mib: MiB freed by an eviction; None otherwise.
        method: how it was evicted.
        trigger: for whom or what it was evicted.
        detail: one line: why this victim, why a lease ended, what went wrong.
        uid: whose lease or request it was; None for what belongs to nobody.
        lease: its id.
    """

    at_usec: int
    kind: EntryKind
    consumer: str
    device: str = ""
    duration_usec: int | None = None
    mib: int | None = None
    method: str = ""
    trigger: str = ""
    detail: str = ""
    uid: int | None = None
    lease: str = ""


MAX_ENTRIES = 1000
"""How many entries one answer holds at most."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which entries are wanted; the newest of them, newest first.

    Attributes:
        since_usec, until_usec: CLOCK_REALTIME; 0 = no bound. ``until_usec`` itself is not included.
        consumer: of this consumer only (also evictions for it); "" = of all.
        kinds: only these; empty = all.
        limit: how many at most.
    """

    since_usec: int = 0
    until_usec: int = 0
    consumer: str = ""
    kinds: frozenset[EntryKind] = field(default_factory=frozenset)
    limit: int = 100
