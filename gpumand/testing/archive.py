"""An archive in memory: nothing outlives it but what a test takes out of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gpumand.domain.history import MAX_ENTRIES, Entry, Query


class MemoryArchive:
    """See gpumand.ports.Archive.

    Attributes:
        noted: every entry, in order.
        learned: consumer -> what was kept last.
    """

    def __init__(self) -> None:
        self.noted: list[Entry] = []
        self.learned: dict[str, dict[str, Any]] = {}

    def note(self, entry: Entry) -> None:
        """Keep an entry."""
        self.noted.append(entry)

    def keep_learned(self, consumer: str, record: Mapping[str, Any]) -> None:
        """Keep what was learned, as a disk would: in plain values."""
        self.learned[consumer] = json.loads(json.dumps(record))

    async def read_learned(self) -> dict[str, dict[str, Any]]:
        """What was kept last."""
        return dict(self.learned)

    async def entries(self, query: Query) -> tuple[Entry, ...]:
        """The newest entries that answer the query."""
        found = [entry for entry in reversed(self.noted) if answers(entry, query)]
        return tuple(found[: min(query.limit, MAX_ENTRIES)])

    async def close(self) -> None:
        """There is nothing to finish."""


def answers(entry: Entry, query: Query) -> bool:
    """Whether an entry is one of those that are wanted."""
    return (
        (not query.since_usec or entry.at_usec >= query.since_usec)
        and (not query.until_usec or entry.at_usec < query.until_usec)
        and (not query.consumer or query.consumer in (entry.consumer, entry.trigger))
        and (not query.kinds or entry.kind in query.kinds)
    )
