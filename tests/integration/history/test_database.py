"""The history database: entries, queries, and damaged files."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from gpumand.domain.history import MAX_ENTRIES, EntryKind, HistoryEntry, HistoryQuery
from gpumand.history import database as module
from gpumand.history.database import Database

EVICTION = HistoryEntry(10, EntryKind.EVICTION, "llm", "0", 1_500_000, 6000, "http", "tts", "least recently used")
GRANT = HistoryEntry(11, EntryKind.GRANT, "tts", "0", 5, detail="a film", uid=1000, lease="abc")
LOAD = HistoryEntry(12, EntryKind.LOAD, "llm", "1", 7)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    one = Database(tmp_path / "state" / "history.db")
    one.add([EVICTION, GRANT, LOAD], {})
    return one


def test_entries_are_returned_unchanged_and_newest_first(database: Database) -> None:
    assert database.entries(HistoryQuery()) == (LOAD, GRANT, EVICTION)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (HistoryQuery(since_usec=11), (LOAD, GRANT)),
        (HistoryQuery(until_usec=12), (GRANT, EVICTION)),
        (HistoryQuery(consumer="tts"), (GRANT, EVICTION)),
        (HistoryQuery(consumer="llm"), (LOAD, EVICTION)),
        (HistoryQuery(kinds=frozenset({EntryKind.LOAD, EntryKind.GRANT})), (LOAD, GRANT)),
        (HistoryQuery(limit=1), (LOAD,)),
        (HistoryQuery(limit=0), ()),
        (HistoryQuery(since_usec=11, until_usec=12, consumer="tts"), (GRANT,)),
        (HistoryQuery(consumer="' OR 1 = 1 --"), ()),
    ],
)
def test_query_returns_matching_entries(
    database: Database, query: HistoryQuery, found: tuple[HistoryEntry, ...]
) -> None:
    assert database.entries(query) == found


def test_closed_database_opens_again(database: Database) -> None:
    database.close()
    assert len(database.entries(HistoryQuery())) == 3


def test_answer_has_a_maximum_length(database: Database) -> None:
    database.add([LOAD] * (MAX_ENTRIES + 5), {})
    assert len(database.entries(HistoryQuery(limit=10**9))) == MAX_ENTRIES


def test_old_entries_are_pruned(database: Database) -> None:
    database.prune(12)
    assert database.entries(HistoryQuery()) == (LOAD,)


def test_oldest_entries_are_pruned_above_the_maximum(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENTRIES_KEPT", 2)
    database.prune(0)
    assert database.entries(HistoryQuery()) == (LOAD, GRANT)


def test_learned_record_replaces_the_earlier_one(database: Database) -> None:
    database.add([], {"llm": '{"a": 1}', "tts": '{"b": 2}'})
    database.add([], {"llm": '{"a": 3}'})
    assert database.learned() == {"llm": {"a": 3}, "tts": {"b": 2}}


def test_malformed_learned_records_are_skipped(database: Database) -> None:
    database.add([], {"a": "{", "b": "[]", "c": "[" * 5000, "d": '{"e": 1}'})
    assert database.learned() == {"d": {"e": 1}}


@pytest.mark.parametrize("content", [b"", b"no database at all, but long enough to be read as a header" * 9])
def test_damaged_file_is_renamed_and_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "history.db"
    path.write_bytes(content)
    database = Database(path)
    database.add([LOAD], {})
    assert database.entries(HistoryQuery()) == (LOAD,)
    assert (tmp_path / "history.db.damaged").exists() is bool(content)


def test_truncated_file_is_renamed(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    database = Database(path)
    database.add([LOAD] * 500, {})
    database.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2 + 100])
    assert Database(path).entries(HistoryQuery()) == ()
    assert (tmp_path / "history.db.damaged").exists()


def test_foreign_database_is_renamed(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (title)")
    connection.close()
    assert Database(path).entries(HistoryQuery()) == ()
    assert (tmp_path / "history.db.damaged").exists()


def test_malformed_rows_are_skipped(database: Database, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "state" / "history.db") as connection:
        row = (13, "song", "x", "", None, None, "", "", "", None, "")
        connection.execute(f"INSERT INTO entries VALUES ({', '.join('?' * 11)})", row)
        connection.execute(f"INSERT INTO entries VALUES ({', '.join('?' * 11)})", (14, "load", b"x", *row[3:]))
        connection.execute(f"INSERT INTO entries VALUES ({', '.join('?' * 11)})", (14, "load", "x", "", -4, *row[5:]))
    connection.close()
    assert database.entries(HistoryQuery()) == (LOAD, GRANT, EVICTION)


def test_detail_accepts_any_text(database: Database) -> None:
    database.add([HistoryEntry(20, EntryKind.LOAD_FAILED, "llm", detail="\udcff\0" + "x" * 9000)], {})
    (entry, *_) = database.entries(HistoryQuery())
    assert entry.detail.startswith("?\0xxx")
    assert len(entry.detail) == module.MAX_TEXT
