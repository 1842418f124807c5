"""Entries that a process keeps itself, with watches of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from gpumand.fleet.store import Change, Entry, Listing, Removed, Written

MAX_WAITING = 1000
"""Changes that wait for a slow reader; beyond that it gets a listing instead."""


class LocalEntries:
    """Keys and values in memory; a higher revision is newer."""

    def __init__(self) -> None:
        self.revision = 0
        self._entries: dict[str, Entry] = {}
        self._watches: list[tuple[str, asyncio.Queue[Change]]] = []

    def write(self, key: str, value: str) -> int:
        """Write a key and return the revision; one that has this value already is not written."""
        found = self._entries.get(key)
        if found is not None and found.value == value:
            return found.revision
        self.revision += 1
        self._entries[key] = entry = Entry(key, value, self.revision)
        self._report(key, Written(entry))
        return self.revision

    def remove(self, key: str) -> None:
        """Remove a key; no change if it does not exist."""
        if self._entries.pop(key, None) is not None:
            self.revision += 1
            self._report(key, Removed(key, self.revision))

    def listing(self, prefix: str) -> Listing:
        """All entries below a prefix, in the order of their keys."""
        found = sorted(key for key in self._entries if key.startswith(prefix))
        return Listing(tuple(self._entries[key] for key in found), self.revision)

    async def watch(self, prefix: str) -> AsyncGenerator[Change, None]:
        """Report a listing first and then every change, without end."""
        changes: asyncio.Queue[Change] = asyncio.Queue()
        watch = (prefix, changes)
        changes.put_nowait(self.listing(prefix))
        self._watches.append(watch)
        try:
            while True:
                yield await changes.get()
        finally:
            self._watches.remove(watch)

    def _report(self, key: str, change: Change) -> None:
        for prefix, changes in self._watches:
            if key.startswith(prefix):
                _put(changes, change, self.listing(prefix) if changes.qsize() >= MAX_WAITING else None)


def _put(changes: asyncio.Queue[Change], change: Change, instead: Listing | None) -> None:
    while instead is not None and not changes.empty():
        changes.get_nowait()
    changes.put_nowait(instead or change)
