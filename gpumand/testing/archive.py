"""An in-memory implementation of the Archive port."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gpumand.domain.history import MAX_ENTRIES, HistoryEntry, HistoryQuery


class MemoryArchive:
    """An Archive that keeps everything in memory; see ``gpumand.ports.Archive``.

    Attributes:
        noted: every entry that was added, in order.
        learned: consumer -> the measurements saved last.
    """

    def __init__(self) -> None:
        self.noted: list[HistoryEntry] = []
        self.learned: dict[str, dict[str, Any]] = {}

    def add(self, entry: HistoryEntry) -> None:
        """Add an entry."""
        self.noted.append(entry)

    def save_learned(self, consumer: str, record: Mapping[str, Any]) -> None:
        """Save the measurements of a consumer, converted to JSON and back as on disk."""
        self.learned[consumer] = json.loads(json.dumps(record))

    async def read_learned(self) -> dict[str, dict[str, Any]]:
        """Return the measurements of all consumers."""
        return dict(self.learned)

    async def entries(self, query: HistoryQuery) -> tuple[HistoryEntry, ...]:
        """Return the newest entries that match the query."""
        found = [entry for entry in reversed(self.noted) if answers(entry, query)]
        return tuple(found[: min(query.limit, MAX_ENTRIES)])

    async def close(self) -> None:
        """Do nothing."""


def answers(entry: HistoryEntry, query: HistoryQuery) -> bool:
    """Return whether an entry matches a query."""
    return (
        (not query.since_usec or entry.at_usec >= query.since_usec)
        and (not query.until_usec or entry.at_usec < query.until_usec)
        and (not query.consumer or query.consumer in (entry.consumer, entry.trigger))
        and (not query.kinds or entry.kind in query.kinds)
    )
