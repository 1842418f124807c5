"""The Archive port on SQLite: collects entries briefly, then writes them in one transaction in a thread."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from gpumand.domain.history import HistoryEntry, HistoryQuery
from gpumand.history.database import Database, before_usec
from gpumand.state.worker import Worker

log = logging.getLogger(__name__)

WRITE_DELAY_SEC = 1.0
"""Delay before collected entries are written; a crash loses no more than that."""

MAX_UNWRITTEN = 10_000
"""Maximum number of entries in memory while the disk hangs; the oldest are dropped first."""

QUERY_TIMEOUT_SEC = 3.0
"""Time limit of a query, while the disk hangs."""

MAX_PENDING_QUERIES = 32
"""Maximum number of queries queued for the thread; a query that timed out stays queued until the disk responds."""

MAX_EXTRA_WRITES = 4
"""Maximum number of concurrent writes that precede queries, in addition to the regular write."""

DEFAULT_KEEP_DAYS = 90.0
PRUNE_EVERY_SEC = 3600.0
CLOSE_TIMEOUT_SEC = 1.0

T = TypeVar("T")


class SqliteArchive:
    """Stores history and learned values in SQLite; see gpumand.ports.Archive. To be used on one event loop."""

    def __init__(self, path: Path, keep_days: float = DEFAULT_KEEP_DAYS) -> None:
        """Nothing is opened before the first write or read.

        Args:
            path: file of the database; its directory is created if missing.
            keep_days: number of days for which entries are kept; 0 = none are kept.
        """
        self.keep_days = keep_days
        self._database = Database(path)
        self._worker = Worker("gpumand-archive")
        self._unwritten_entries: deque[HistoryEntry] = deque(maxlen=MAX_UNWRITTEN)
        self._unwritten_learned: dict[str, str] = {}
        self._learned_cache: dict[str, dict[str, Any]] = {}
        self._is_learned_read = False
        self._pending_queries: deque[None] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._extra_writes: set[asyncio.Task[None]] = set()
        self._pruned_at = float("-inf")
        self._error = ""
        self._is_closed = False

    def add(self, entry: HistoryEntry) -> None:
        """Store an entry, soon."""
        if self.keep_days > 0:
            self._unwritten_entries.append(entry)
            self._write_soon()

    def save_learned(self, consumer: str, record: Mapping[str, Any]) -> None:
        """Store the learned values of a consumer, soon."""
        self._unwritten_learned[consumer] = json.dumps(record)
        self._learned_cache[consumer] = dict(record)
        self._write_soon()

    async def read_learned(self) -> dict[str, dict[str, Any]]:
        """Consumer -> its last stored record; records on disk are missing while the disk cannot be read.

        The first successful call reads the disk, later ones use a cache: no other process writes to the database.
        """
        if not self._is_learned_read:
            found = await self._query(self._database.learned, None)
            self._is_learned_read = found is not None
            # Records saved since the start are newer than those on disk.
            self._learned_cache = (found or {}) | self._learned_cache
        return dict(self._learned_cache)

    async def entries(self, query: HistoryQuery) -> tuple[HistoryEntry, ...]:
        """The newest entries that match a query; none when the database cannot be read."""
        self._write_before_query()
        return await self._query(lambda: self._database.entries(query), ())

    async def close(self) -> None:
        """Write what is pending, with a time limit in case the disk hangs."""
        self._is_closed = True
        # The delayed write is cancelled, and everything is written now. A write that has already started goes on in the
        # thread, ahead of this one.
        if self._writing is not None:
            self._writing.cancel()
        try:
            await asyncio.wait_for(self._write(), timeout=CLOSE_TIMEOUT_SEC)
            await asyncio.wait_for(self._worker.run(self._database.close), timeout=CLOSE_TIMEOUT_SEC)
            await asyncio.wait_for(self._worker.close(), timeout=CLOSE_TIMEOUT_SEC)
        except (OSError, TimeoutError) as error:
            log.warning("the last history entries may be lost: %s", str(error) or "the disk does not respond")

    # -- writing -------------------------------------------------------------------------------------------------

    def _write_soon(self) -> None:
        if self._writing is None and not self._is_closed:
            self._writing = asyncio.get_running_loop().create_task(self._write_after_delay())

    async def _write_after_delay(self) -> None:
        try:
            await asyncio.sleep(WRITE_DELAY_SEC)
            await self._write()
        finally:
            self._writing = None
        # Entries added during the write found a running task and started none.
        if self._unwritten_entries or self._unwritten_learned:
            self._write_soon()

    async def _write(self) -> None:
        # Taken out before the await: entries that arrive during the write belong to the next one.
        entries, learned = tuple(self._unwritten_entries), dict(self._unwritten_learned)
        self._unwritten_entries.clear()
        self._unwritten_learned.clear()
        if entries or learned:
            await self._run_logged(lambda: self._database.add(entries, learned), None)
            await self._prune()

    def _write_before_query(self) -> None:
        """Start a write ahead of a query, so that the query includes it; skipped while several hang in the disk."""
        if len(self._extra_writes) >= MAX_EXTRA_WRITES:
            return
        task = asyncio.get_running_loop().create_task(self._write())
        self._extra_writes.add(task)
        task.add_done_callback(self._extra_writes.discard)

    async def _prune(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._pruned_at >= PRUNE_EVERY_SEC:
            self._pruned_at = now
            await self._run_logged(lambda: self._database.prune(before_usec(self.keep_days)), None)

    async def _query(self, function: Callable[[], T], otherwise: T) -> T:
        await asyncio.sleep(0)  # lets the write that was just started enter the queue of the thread first
        if len(self._pending_queries) >= MAX_PENDING_QUERIES:
            return otherwise
        self._pending_queries.append(None)

        # Counted down in the thread, not here: a query that timed out still occupies the queue of the thread.
        def answer() -> T:
            self._pending_queries.popleft()
            return function()

        try:
            # Not wait_for: in Python 3.11 it loses a cancellation that arrives together with the result.
            async with asyncio.timeout(QUERY_TIMEOUT_SEC):
                return await self._run_logged(answer, otherwise)
        except TimeoutError:
            self._database_failed("the disk does not respond")
            return otherwise

    async def _run_logged(self, function: Callable[[], T], otherwise: T) -> T:
        """Run a function in the thread; a failure of the disk is logged when it begins and when it is over."""
        try:
            result = await self._worker.run(function)
        except (sqlite3.Error, OSError) as error:
            self._database_failed(str(error))
            return otherwise
        if self._error:
            log.warning("the history database works again")
            self._error = ""
        return result

    def _database_failed(self, fault: str) -> None:
        if not self._error:
            log.warning("the history database failed: %s. New entries may be lost until it works again", fault)
        self._error = fault or "unknown"
