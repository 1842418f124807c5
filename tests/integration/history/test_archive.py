"""The archive: entries reach the disk soon, and a failing disk blocks no caller."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from gpumand.domain.history import EntryKind, HistoryEntry, HistoryQuery
from gpumand.history import SqliteArchive
from gpumand.history import archive as module

LOAD = HistoryEntry(10**16, EntryKind.LOAD, "llm", "1", 7)


async def test_query_includes_an_entry_added_just_before(tmp_path: Path) -> None:
    archive = SqliteArchive(tmp_path / "history.db")
    archive.add(LOAD)
    assert await archive.entries(HistoryQuery()) == (LOAD,)
    await archive.close()


async def test_close_writes_pending_entries(tmp_path: Path) -> None:
    first = SqliteArchive(tmp_path / "history.db")
    first.add(LOAD)
    first.save_learned("llm", {"a": 1})
    await first.close()
    second = SqliteArchive(tmp_path / "history.db")
    assert await second.entries(HistoryQuery()) == (LOAD,)
    assert await second.read_learned() == {"llm": {"a": 1}}
    await second.close()


async def test_learned_records_are_read_from_disk_only_once(tmp_path: Path) -> None:
    first = SqliteArchive(tmp_path / "history.db")
    first.save_learned("llm", {"a": 1})
    first.save_learned("tts", {"a": 2})
    await first.close()
    second = SqliteArchive(tmp_path / "history.db")
    second.save_learned("tts", {"a": 3})
    assert await second.read_learned() == {"llm": {"a": 1}, "tts": {"a": 3}}
    with closing(sqlite3.connect(tmp_path / "history.db")) as disk, disk:
        disk.execute("DELETE FROM learned")
    second.save_learned("img", {"a": 4})
    assert await second.read_learned() == {"llm": {"a": 1}, "tts": {"a": 3}, "img": {"a": 4}}
    await second.close()


async def test_failed_read_of_learned_records_is_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = SqliteArchive(tmp_path / "history.db")
    first.save_learned("llm", {"a": 1})
    await first.close()
    second, thawed = SqliteArchive(tmp_path / "history.db"), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(module, "QUERY_TIMEOUT_SEC", 0.01)
        hanging = asyncio.ensure_future(second._worker.run(lambda: thawed.wait(30)))
        assert await second.read_learned() == {}
    thawed.set()
    await hanging
    assert await second.read_learned() == {"llm": {"a": 1}}
    await second.close()


async def test_with_zero_keep_days_only_learned_records_are_stored(tmp_path: Path) -> None:
    archive = SqliteArchive(tmp_path / "history.db", keep_days=0)
    archive.add(LOAD)
    archive.save_learned("llm", {"a": 1})
    assert await archive.entries(HistoryQuery()) == ()
    await archive.close()
    assert await SqliteArchive(tmp_path / "history.db").read_learned() == {"llm": {"a": 1}}


async def test_uncreatable_directory_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state").write_text("a file in place of the directory")
    archive = SqliteArchive(tmp_path / "state" / "history.db")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            archive.add(LOAD)
            assert await archive.entries(HistoryQuery()) == ()
        assert await archive.read_learned() == {}
        await archive.close()
    assert [record.message for record in caplog.records if "the history database failed" in record.message][1:] == []


async def test_queries_do_not_accumulate_while_the_disk_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUERY_TIMEOUT_SEC", 0.01)
    archive, thawed = SqliteArchive(tmp_path / "history.db"), threading.Event()
    held = archive._worker._jobs
    hanging = asyncio.ensure_future(archive._worker.run(lambda: thawed.wait(30)))
    for _ in range(3 * module.MAX_PENDING_QUERIES):
        archive.add(LOAD)
        assert await archive.entries(HistoryQuery()) == ()
    assert held.qsize() <= module.MAX_PENDING_QUERIES + module.MAX_EXTRA_WRITES
    thawed.set()
    await hanging
    async with asyncio.timeout(30):
        while archive._extra_writes or archive._pending_queries:  # until all pending functions have run
            await archive._worker.run(lambda: None)
    monkeypatch.setattr(module, "QUERY_TIMEOUT_SEC", 30.0)
    answer = await archive.entries(HistoryQuery(limit=1000))
    assert answer == (LOAD,) * 3 * module.MAX_PENDING_QUERIES, "queries work again, and nothing is lost"
    await archive.close()


async def test_hanging_disk_blocks_neither_queries_nor_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUERY_TIMEOUT_SEC", 0.05)
    monkeypatch.setattr(module, "CLOSE_TIMEOUT_SEC", 0.05)
    archive, thawed = SqliteArchive(tmp_path / "history.db"), threading.Event()
    monkeypatch.setattr(archive._database, "entries", lambda _query: thawed.wait(30) and ())
    try:
        assert await archive.entries(HistoryQuery()) == ()
        archive.add(LOAD)
        await archive.close()
    finally:
        thawed.set()
        await archive._worker.run(archive._database.close)  # when the disk responds again


async def test_cancellation_that_coincides_with_the_answer_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = SqliteArchive(tmp_path / "history.db")
    answer = asyncio.get_running_loop().create_future()
    with monkeypatch.context() as patch:
        patch.setattr(archive._worker, "run", lambda _: answer)
        query = asyncio.create_task(archive.entries(HistoryQuery()))
        for _ in range(5):
            await asyncio.sleep(0)

        answer.set_result(())
        query.cancel()

        with pytest.raises(asyncio.CancelledError):
            await query
    await archive.close()
