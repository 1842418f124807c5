"""History entries: the record of grants, loads and evictions, and the query for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class EntryKind(StrEnum):
    """The kind of event that a history entry records."""

    GRANT = "grant"
    END = "end"
    REFUSAL = "refusal"
    LOAD = "load"
    LOAD_FAILED = "load-failed"
    EVICTION = "eviction"
    EVICTION_FAILED = "eviction-failed"
    EVICTION_DEFERRED = "eviction-deferred"


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One event of the past.

    Attributes:
        at_usec: when it ended, CLOCK_REALTIME.
        kind: kind of event.
        consumer: the consumer concerned.
        device: index as text, "" when no device is known.
        duration_usec: its duration: the wait of a grant, the life of a lease that ended, a load, an eviction; None
            where there is none.
        mib: MiB freed by an eviction; None otherwise.
        method: method of an eviction.
        trigger: cause of an eviction: a consumer, "manual", or "idle".
        detail: one line: why this victim was chosen, why a lease ended, or what failed.
        uid: user id of the owner of the lease or request; None where there is no owner.
        lease: id of the lease, or "".
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
"""Maximum number of entries in one answer."""


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """A query for history entries; the answer has the newest matching entries, newest first.

    Attributes:
        since_usec, until_usec: CLOCK_REALTIME; 0 = no bound. ``until_usec`` itself is not included.
        consumer: only entries of this consumer, and evictions that it triggered; "" = of all consumers.
        kinds: only entries of these kinds; empty = all.
        limit: maximum number of entries.
    """

    since_usec: int = 0
    until_usec: int = 0
    consumer: str = ""
    kinds: frozenset[EntryKind] = field(default_factory=frozenset)
    limit: int = 100
