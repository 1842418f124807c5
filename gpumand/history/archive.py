"""The Archive port on SQLite: gathers for a moment, then writes all of it at once, in a thread."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from gpumand.domain.history import Entry, Query
from gpumand.history.database import Database, before_usec
from gpumand.state.worker import Worker

log = logging.getLogger(__name__)

GATHER_SEC = 1.0
"""How long is gathered before it is written: a crash costs no more than that."""

MAX_GATHERED = 10_000
"""What a disk that does not answer can make us hold; the oldest goes first."""

ANSWER_SEC = 3.0
"""How long a question waits for the disk."""

MAX_ASKED = 32
"""So many questions wait for the disk at most: nobody takes them back who has stopped waiting."""

MAX_BESIDE = 4
"""So many writes are begun beside the one that is under way."""

DEFAULT_KEEP_DAYS = 90.0
PRUNE_EVERY_SEC = 3600.0
CLOSE_SEC = 1.0

T = TypeVar("T")


class SqliteArchive:
    """See gpumand.ports.Archive. To be used on one event loop."""

    def __init__(self, path: Path, keep_days: float = DEFAULT_KEEP_DAYS) -> None:
        """Nothing is opened before the first write or read.

        Args:
            path: the database's file; its folder is made if it is not there.
            keep_days: for how long entries are kept; 0 = none are.
        """
        self.keep_days = keep_days
        self._database = Database(path)
        self._worker = Worker("gpumand-archive")
        self._entries: deque[Entry] = deque(maxlen=MAX_GATHERED)
        self._learned: dict[str, str] = {}
        self._known: dict[str, dict[str, Any]] = {}
        self._is_read = False
        self._asked: deque[None] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._beside: set[asyncio.Task[None]] = set()
        self._pruned_at = float("-inf")
        self._fault = ""
        self._is_closed = False

    def note(self, entry: Entry) -> None:
        """Keep an entry, soon."""
        if self.keep_days > 0:
            self._entries.append(entry)
            self._write_soon()

    def keep_learned(self, consumer: str, record: Mapping[str, Any]) -> None:
        """Keep what was learned about a consumer, soon."""
        self._learned[consumer] = json.dumps(record)
        self._known[consumer] = dict(record)
        self._write_soon()

    async def read_learned(self) -> dict[str, dict[str, Any]]:
        """Consumer -> what was kept last; without what is only on disk when that cannot be read.

        The disk is read once, by whoever asks first: nobody else writes there, and all who ask hear the same.
        """
        if not self._is_read:
            found = await self._bounded(self._database.learned, None)
            self._is_read = found is not None
            self._known = (found or {}) | self._known
        return dict(self._known)

    async def entries(self, query: Query) -> tuple[Entry, ...]:
        """The newest entries that answer a query; none when nothing can be read."""
        self._write_now()
        return await self._bounded(lambda: self._database.entries(query), ())

    async def close(self) -> None:
        """Finish what was asked for, as far as the disk lets us."""
        self._is_closed = True
        if self._writing is not None:
            self._writing.cancel()
        try:
            await asyncio.wait_for(self._write(), timeout=CLOSE_SEC)
            await asyncio.wait_for(self._worker.run(self._database.close), timeout=CLOSE_SEC)
            await asyncio.wait_for(self._worker.close(), timeout=CLOSE_SEC)
        except (OSError, TimeoutError) as error:
            log.warning("the last of the history is not kept: %s", error or "the disk does not answer")

    # -- writing -------------------------------------------------------------------------------------------------

    def _write_soon(self) -> None:
        if self._writing is None and not self._is_closed:
            self._writing = asyncio.get_running_loop().create_task(self._gather())

    async def _gather(self) -> None:
        try:
            await asyncio.sleep(GATHER_SEC)
            await self._write()
        finally:
            self._writing = None
        if self._entries or self._learned:
            self._write_soon()

    async def _write(self) -> None:
        entries, learned = tuple(self._entries), dict(self._learned)
        self._entries.clear()
        self._learned.clear()
        if entries or learned:
            await self._try(lambda: self._database.add(entries, learned), None)
            await self._prune()

    def _write_now(self) -> None:
        """Ahead of a question, which the thread answers after it; while the disk hangs, what comes stays gathered."""
        if len(self._beside) >= MAX_BESIDE:
            return
        task = asyncio.get_running_loop().create_task(self._write())
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    async def _prune(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._pruned_at >= PRUNE_EVERY_SEC:
            self._pruned_at = now
            await self._try(lambda: self._database.prune(before_usec(self.keep_days)), None)

    async def _bounded(self, function: Callable[[], T], otherwise: T) -> T:
        await asyncio.sleep(0)  # what is being written comes first
        if len(self._asked) >= MAX_ASKED:
            return otherwise
        self._asked.append(None)

        def answer() -> T:
            self._asked.popleft()
            return function()

        try:
            async with asyncio.timeout(ANSWER_SEC):  # wait_for of Python 3.11 takes an answer for being stopped
                return await self._try(answer, otherwise)
        except TimeoutError:
            self._database_failed("the disk does not answer")
            return otherwise

    async def _try(self, function: Callable[[], T], otherwise: T) -> T:
        """Have the thread do it. What is wrong with the disk is told when it begins, and when it is over."""
        try:
            result = await self._worker.run(function)
        except (sqlite3.Error, OSError) as error:
            self._database_failed(str(error))
            return otherwise
        if self._fault:
            log.warning("the history is kept again")
            self._fault = ""
        return result

    def _database_failed(self, fault: str) -> None:
        if not self._fault:
            log.warning("the history is not kept: %s", fault)
        self._fault = fault or "unknown"
