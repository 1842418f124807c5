"""The archive's file: SQLite, blocking, for one thread.

What is in it is useful and never vital: a file that is damaged or of another version is set aside, and a new one begun.
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

from gpumand.domain.history import MAX_ENTRIES, Entry, EntryKind, Query

log = logging.getLogger(__name__)

FORMAT = 1
MAX_ENTRIES_KEPT = 200_000
"""About 30 MiB; whoever grants more often than that in ``keep_days`` keeps fewer days."""

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
    """One file. Every method but ``close`` may raise sqlite3.Error or OSError."""

    def __init__(self, path: Path) -> None:
        """Nothing is opened before the first call. ``path``'s folder is made if it is not there."""
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def add(self, entries: Iterable[Entry], learned: Mapping[str, str]) -> None:
        """Keep entries and records (JSON text by consumer), all or nothing."""
        with self._opened() as connection:
            places = ", ".join("?" * 11)
            connection.executemany(f"INSERT INTO entries ({_COLUMNS}) VALUES ({places})", map(_row, entries))
            connection.executemany("INSERT OR REPLACE INTO learned VALUES (?, ?)", learned.items())

    def prune(self, before_usec: int) -> None:
        """Forget entries that ended before a moment, and the oldest where there are too many."""
        with self._opened() as connection:
            connection.execute("DELETE FROM entries WHERE at_usec < ?", (before_usec,))
            connection.execute(
                "DELETE FROM entries WHERE rowid IN "
                "(SELECT rowid FROM entries ORDER BY at_usec DESC LIMIT -1 OFFSET ?)",
                (MAX_ENTRIES_KEPT,),
            )

    def entries(self, query: Query) -> tuple[Entry, ...]:
        """The newest entries that answer a query, newest first."""
        conditions, values = _conditions(query)
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        limit = max(0, min(query.limit, MAX_ENTRIES))
        statement = f"SELECT {_COLUMNS} FROM entries {where} ORDER BY at_usec DESC, rowid DESC LIMIT {limit}"
        with closing(self._opened().execute(statement, values)) as cursor:
            return tuple(entry for row in cursor if (entry := _entry(row)))

    def learned(self) -> dict[str, dict[str, Any]]:
        """Consumer -> record; what is no record is left out."""
        with closing(self._opened().execute(f"SELECT consumer, record FROM learned LIMIT {MAX_LEARNED}")) as cursor:
            return dict(_records(cursor))

    def close(self) -> None:
        """Give the file back; it is opened again when needed."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    # -- the file ------------------------------------------------------------------------------------------------

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self._connection = _open(self._path)
            except (sqlite3.DatabaseError, _Foreign) as error:
                if isinstance(error, sqlite3.OperationalError):
                    raise  # locked, no space, no right: no fault of the file's content
                self._set_aside(str(error))
                self._connection = _open(self._path)
        return self._connection

    def _set_aside(self, why: str) -> None:
        kept = self._path.with_name(f"{self._path.name}.damaged")
        log.warning("%s is set aside as %s and begun anew: %s", self._path, kept.name, why)
        for suffix in _SIDE_FILES:
            with suppress(FileNotFoundError):
                self._path.with_name(self._path.name + suffix).replace(kept.with_name(kept.name + suffix))


class _Foreign(Exception):
    """The file is sound, and not ours."""


def _open(path: Path) -> sqlite3.Connection:
    """Open it, made if it is not there, and look it through. Raises sqlite3.Error, _Foreign."""
    # One thread at a time uses it, though not always the one that opened it: a worker's thread may be started anew.
    connection = sqlite3.connect(path, timeout=2.0, check_same_thread=False)
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise _Foreign(f"it is damaged ({str(verdict)[:100]})")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # the last second may be lost, the file may not
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if version == 0 and tables == 0:
        with connection:
            for statement in _SCHEMA:
                connection.execute(statement)
    elif version != FORMAT:
        raise _Foreign(f"its format is {version}, not {FORMAT}")
    else:
        connection.execute(f"SELECT {_COLUMNS} FROM entries LIMIT 1").close()
        connection.execute("SELECT consumer, record FROM learned LIMIT 1").close()


def _conditions(query: Query) -> tuple[list[str], list[Any]]:
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


def _row(entry: Entry) -> tuple[Any, ...]:
    return (
        entry.at_usec,
        str(entry.kind),
        entry.consumer[:MAX_TEXT],
        entry.device[:MAX_TEXT],
        entry.duration_usec,
        entry.mib,
        entry.method[:MAX_TEXT],
        entry.trigger[:MAX_TEXT],
        # What a consumer's answer or a log said may hold anything; SQLite takes no lone surrogates.
        entry.detail[:MAX_TEXT].encode("utf-8", "replace").decode("utf-8"),
        entry.uid,
        entry.lease[:MAX_TEXT],
    )


def _entry(row: tuple[Any, ...]) -> Entry | None:
    """A row as an entry; None for what no version of ours has written. The file's columns take any type."""
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
    return Entry(at_usec, EntryKind(kind), consumer, device, duration_usec, mib, method, trigger, detail, uid, lease)


def _records(rows: Iterable[tuple[Any, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for consumer, text in rows:
        if not isinstance(consumer, str) or not isinstance(text, str) or len(text) > MAX_RECORD_BYTES:
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            log.warning("what was learned of %.100r cannot be read and is learned anew", consumer)
            continue
        if isinstance(record, dict):
            yield consumer, record


def before_usec(keep_days: float) -> int:
    """The moment before which everything may be forgotten."""
    return int((time.time() - keep_days * 86400) * 1e6)
