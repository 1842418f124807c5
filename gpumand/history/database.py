"""The SQLite database of history and learned values; blocking code, to be used by one thread.

Its content is useful but not vital: a file that is damaged or of another version is renamed, and a new one is created.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from gpumand.domain.history import MAX_ENTRIES, EntryKind, HistoryEntry, HistoryQuery

log = logging.getLogger(__name__)

FORMAT = 1
MAX_ENTRIES_KEPT = 200_000
"""About 30 MiB. With more entries within ``keep_days``, the oldest are deleted earlier."""

MAX_TEXT = 1024
MAX_LEARNED = 4096
MAX_RECORD_BYTES = 64 * 1024

_COLUMNS = "at_usec, kind, consumer, device, duration_usec, mib, method, trigger, detail, uid, lease"
_SCHEMA = (
    "CREATE TABLE entries (at_usec INTEGER NOT NULL, kind TEXT NOT NULL, consumer TEXT NOT NULL, device TEXT NOT NULL, "
    "duration_usec INTEGER, mib INTEGER, method TEXT NOT NULL, trigger TEXT NOT NULL, detail TEXT NOT NULL, "
    "uid INTEGER, lease TEXT NOT NULL)",
    "CREATE INDEX entries_at ON entries (at_usec)",
    "CREATE TABLE learned (consumer TEXT PRIMARY KEY, record TEXT NOT NULL)",
    f"PRAGMA user_version = {FORMAT}",
)
_SIDE_FILES = ("", "-wal", "-shm")


class Database:
    """One database file. Every method but ``close`` may raise sqlite3.Error or OSError."""

    def __init__(self, path: Path) -> None:
        """Nothing is opened before the first call. The directory of ``path`` is created if missing."""
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def add(self, entries: Iterable[HistoryEntry], learned: Mapping[str, str]) -> None:
        """Store entries and learned records (JSON text by consumer) in one transaction."""
        with self._open_once() as connection:
            places = ", ".join("?" * 11)
            connection.executemany(f"INSERT INTO entries ({_COLUMNS}) VALUES ({places})", map(_to_row, entries))
            connection.executemany("INSERT OR REPLACE INTO learned VALUES (?, ?)", learned.items())

    def prune(self, before_usec: int) -> None:
        """Delete entries that ended before CLOCK_REALTIME ``before_usec``, and the oldest above MAX_ENTRIES_KEPT."""
        with self._open_once() as connection:
            connection.execute("DELETE FROM entries WHERE at_usec < ?", (before_usec,))
            connection.execute(
                "DELETE FROM entries WHERE rowid IN "
                "(SELECT rowid FROM entries ORDER BY at_usec DESC LIMIT -1 OFFSET ?)",
                (MAX_ENTRIES_KEPT,),
            )

    def entries(self, query: HistoryQuery) -> tuple[HistoryEntry, ...]:
        """The newest entries that match a query, newest first."""
        conditions, values = _conditions(query)
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        limit = max(0, min(query.limit, MAX_ENTRIES))
        statement = f"SELECT {_COLUMNS} FROM entries {where} ORDER BY at_usec DESC, rowid DESC LIMIT {limit}"
        with closing(self._open_once().execute(statement, values)) as cursor:
            return tuple(entry for row in cursor if (entry := _from_row(row)))

    def learned(self) -> dict[str, dict[str, Any]]:
        """Consumer -> learned record; malformed records are skipped."""
        with closing(self._open_once().execute(f"SELECT consumer, record FROM learned LIMIT {MAX_LEARNED}")) as cursor:
            return dict(_records(cursor))

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    # -- the file ------------------------------------------------------------------------------------------------

    def _open_once(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self._connection = _open(self._path)
            except (sqlite3.DatabaseError, _UnusableDatabase) as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise  # locked, no space, no permission: the content of the file is not at fault
                self._replace_damaged_file(str(error))
                self._connection = _open(self._path)
        return self._connection

    def _replace_damaged_file(self, why: str) -> None:
        damaged = self._path.with_name(f"{self._path.name}.damaged")
        log.warning("%s is unusable, is renamed to %s and replaced by an empty one: %s", self._path, damaged.name, why)
        for suffix in _SIDE_FILES:
            with suppress(FileNotFoundError):
                self._path.with_name(self._path.name + suffix).replace(damaged.with_name(damaged.name + suffix))


class _UnusableDatabase(Exception):
    """The file is damaged, or not a history database of this version."""


def _open(path: Path) -> sqlite3.Connection:
    """Open or create the database and check it. Raises sqlite3.Error, _Foreign."""
    # check_same_thread: the connection is used by one thread at a time, but not always by the one that opened it.
    connection = sqlite3.connect(path, timeout=2.0, check_same_thread=False)
    try:
        # A manipulated file must not run SQL functions through its schema.
        connection.execute("PRAGMA trusted_schema = OFF")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise _UnusableDatabase(f"it is damaged ({str(verdict)[:100]})")
        connection.execute("PRAGMA journal_mode = WAL")
        # NORMAL: a power failure may lose the last entries, but cannot damage the file.
        connection.execute("PRAGMA synchronous = NORMAL")
        _check_schema(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_schema(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version == 0 and tables == 0:
        with connection:
            for statement in _SCHEMA:
                connection.execute(statement)
    elif version != FORMAT:
        raise _UnusableDatabase(f"its format is {version}, not {FORMAT}")
    else:
        connection.execute(f"SELECT {_COLUMNS} FROM entries LIMIT 1").close()
        connection.execute("SELECT consumer, record FROM learned LIMIT 1").close()


def _conditions(query: HistoryQuery) -> tuple[list[str], list[Any]]:
    wanted: list[tuple[str, list[Any]]] = []
    if query.since_usec:
        wanted.append(("at_usec >= ?", [query.since_usec]))
    if query.until_usec:
        wanted.append(("at_usec < ?", [query.until_usec]))
    if query.consumer:
        wanted.append(('(consumer = ? OR "trigger" = ?)', [query.consumer, query.consumer]))
    if query.kinds:
        wanted.append((f"kind IN ({', '.join('?' * len(query.kinds))})", sorted(query.kinds)))
    return [condition for condition, _ in wanted], [value for _, values in wanted for value in values]


def _to_row(entry: HistoryEntry) -> tuple[Any, ...]:
    return (
        entry.at_usec,
        str(entry.kind),
        entry.consumer[:MAX_TEXT],
        entry.device[:MAX_TEXT],
        entry.duration_usec,
        entry.mib,
        entry.method[:MAX_TEXT],
        entry.trigger[:MAX_TEXT],
        # The detail may contain text from a consumer or a log; SQLite rejects lone surrogates.
        entry.detail[:MAX_TEXT].encode("utf-8", "replace").decode("utf-8"),
        entry.uid,
        entry.lease[:MAX_TEXT],
    )


def _from_row(row: tuple[Any, ...]) -> HistoryEntry | None:
    """A row as an entry, or None for a malformed row: columns of SQLite accept values of any type."""
    at_usec, kind, consumer, device, duration_usec, mib, method, trigger, detail, uid, lease = row
    texts = (consumer, device, method, trigger, detail, lease)
    numbers = (duration_usec, mib, uid)
    sound = (
        isinstance(at_usec, int)
        and kind in set(EntryKind)
        and all(isinstance(text, str) and len(text) <= MAX_TEXT for text in texts)
        and all(number is None or (isinstance(number, int) and number >= 0) for number in numbers)
    )
    if not sound:
        return None
    return HistoryEntry(
        at_usec, EntryKind(kind), consumer, device, duration_usec, mib, method, trigger, detail, uid, lease
    )


def _records(rows: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for consumer, text in rows:
        if not isinstance(consumer, str) or not isinstance(text, str) or len(text) > MAX_RECORD_BYTES:
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            log.warning("the learned values of %.100r cannot be read and are learned again", consumer)
            continue
        if isinstance(record, dict):
            yield consumer, record


def before_usec(keep_days: float) -> int:
    """CLOCK_REALTIME microseconds before which entries are deleted."""
    return int((time.time() - keep_days * 86400) * 1e6)
