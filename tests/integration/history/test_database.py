"""The history's file: what it keeps, and what it does with one that is not sound."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from gpumand.domain.history import MAX_ENTRIES, Entry, EntryKind, Query
from gpumand.history import database as module
from gpumand.history.database import Database

EVICTION = Entry(10, EntryKind.EVICTION, "llm", "0", 1_500_000, 6000, "http", "tts", "least recently used")
GRANT = Entry(11, EntryKind.GRANT, "tts", "0", 5, detail="a film", uid=1000, lease="abc")
LOAD = Entry(12, EntryKind.LOAD, "llm", "1", 7)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    one = Database(tmp_path / "state" / "history.db")
    one.add([EVICTION, GRANT, LOAD], {})
    return one


def test_entries_come_newest_first_as_they_were_kept(database: Database) -> None:
    assert database.entries(Query()) == (LOAD, GRANT, EVICTION)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        (Query(since_usec=11), (LOAD, GRANT)),
        (Query(until_usec=12), (GRANT, EVICTION)),
        (Query(consumer="tts"), (GRANT, EVICTION)),
        (Query(consumer="llm"), (LOAD, EVICTION)),
        (Query(kinds=frozenset({EntryKind.LOAD, EntryKind.GRANT})), (LOAD, GRANT)),
        (Query(limit=1), (LOAD,)),
        (Query(limit=0), ()),
        (Query(since_usec=11, until_usec=12, consumer="tts"), (GRANT,)),
        (Query(consumer="' OR 1 = 1 --"), ()),
    ],
)
def test_query_finds_what_it_names(database: Database, query: Query, found: tuple[Entry, ...]) -> None:
    assert database.entries(query) == found


def test_it_outlives_its_closing(database: Database) -> None:
    database.close()
    assert len(database.entries(Query())) == 3


def test_no_answer_is_endless(database: Database) -> None:
    database.add([LOAD] * (MAX_ENTRIES + 5), {})
    assert len(database.entries(Query(limit=10**9))) == MAX_ENTRIES


def test_old_entries_are_forgotten(database: Database) -> None:
    database.prune(12)
    assert database.entries(Query()) == (LOAD,)


def test_oldest_go_where_there_are_too_many(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENTRIES_KEPT", 2)
    database.prune(0)
    assert database.entries(Query()) == (LOAD, GRANT)


def test_learned_is_replaced_and_read_back(database: Database) -> None:
    database.add([], {"llm": '{"a": 1}', "tts": '{"b": 2}'})
    database.add([], {"llm": '{"a": 3}'})
    assert database.learned() == {"llm": {"a": 3}, "tts": {"b": 2}}


def test_learned_that_is_no_record_is_left_out(database: Database) -> None:
    database.add([], {"a": "{", "b": "[]", "c": "[" * 5000, "d": '{"e": 1}'})
    assert database.learned() == {"d": {"e": 1}}


@pytest.mark.parametrize("content", [b"", b"no database at all, but long enough to be read as a header" * 9])
def test_damaged_file_is_set_aside_and_begun_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "history.db"
    path.write_bytes(content)
    database = Database(path)
    database.add([LOAD], {})
    assert database.entries(Query()) == (LOAD,)
    assert (tmp_path / "history.db.damaged").exists() is bool(content)


def test_torn_file_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    database = Database(path)
    database.add([LOAD] * 500, {})
    database.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2 + 100])
    assert Database(path).entries(Query()) == ()
    assert (tmp_path / "history.db.damaged").exists()


def test_database_of_another_kind_or_version_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (title)")
    connection.close()
    assert Database(path).entries(Query()) == ()
    assert (tmp_path / "history.db.damaged").exists()


def test_rows_that_no_version_of_ours_wrote_are_left_out(database: Database, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "state" / "history.db") as connection:
        row = (13, "song", "x", "", None, None, "", "", "", None, "")
        connection.execute(f"INSERT INTO entries VALUES ({', '.join('?' * 11)})", row)
        connection.execute(f"INSERT INTO entries VALUES ({', '.join('?' * 11)})", (14, "load", b"x", *row[3:]))
        connection.execute(f"INSERT INTO entries VALUES ({', '.join('?' * 11)})", (14, "load", "x", "", -4, *row[5:]))
    connection.close()
    assert database.entries(Query()) == (LOAD, GRANT, EVICTION)


def test_what_a_consumer_said_may_be_any_text(database: Database) -> None:
    database.add([Entry(20, EntryKind.LOAD_FAILED, "llm", detail="\udcff\0" + "x" * 9000)], {})
    (entry, *_) = database.entries(Query())
    assert entry.detail.startswith("?\0xxx")
    assert len(entry.detail) == module.MAX_TEXT
