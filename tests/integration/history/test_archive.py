"""The archive: soon on disk, never in anybody's way."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from gpumand.domain.history import Entry, EntryKind, Query
from gpumand.history import SqliteArchive
from gpumand.history import archive as module

LOAD = Entry(10**16, EntryKind.LOAD, "llm", "1", 7)


async def test_what_was_noted_a_moment_ago_is_in_the_answer(tmp_path: Path) -> None:
    archive = SqliteArchive(tmp_path / "history.db")
    archive.note(LOAD)
    assert await archive.entries(Query()) == (LOAD,)
    await archive.close()


async def test_close_keeps_what_was_gathered(tmp_path: Path) -> None:
    first = SqliteArchive(tmp_path / "history.db")
    first.note(LOAD)
    first.keep_learned("llm", {"a": 1})
    await first.close()
    second = SqliteArchive(tmp_path / "history.db")
    assert await second.entries(Query()) == (LOAD,)
    assert await second.read_learned() == {"llm": {"a": 1}}
    await second.close()


async def test_what_was_learned_is_read_from_disk_once_however_often_it_is_asked_for(tmp_path: Path) -> None:
    first = SqliteArchive(tmp_path / "history.db")
    first.keep_learned("llm", {"a": 1})
    first.keep_learned("tts", {"a": 2})
    await first.close()
    second = SqliteArchive(tmp_path / "history.db")
    second.keep_learned("tts", {"a": 3})
    assert await second.read_learned() == {"llm": {"a": 1}, "tts": {"a": 3}}
    with closing(sqlite3.connect(tmp_path / "history.db")) as disk, disk:
        disk.execute("DELETE FROM learned")
    second.keep_learned("img", {"a": 4})
    assert await second.read_learned() == {"llm": {"a": 1}, "tts": {"a": 3}, "img": {"a": 4}}
    await second.close()


async def test_what_could_not_be_read_is_read_when_it_is_next_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = SqliteArchive(tmp_path / "history.db")
    first.keep_learned("llm", {"a": 1})
    await first.close()
    second, thawed = SqliteArchive(tmp_path / "history.db"), threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr(module, "ANSWER_SEC", 0.01)
        hanging = asyncio.ensure_future(second._worker.run(lambda: thawed.wait(10)))
        assert await second.read_learned() == {}
    thawed.set()
    await hanging
    assert await second.read_learned() == {"llm": {"a": 1}}
    await second.close()


async def test_with_no_days_to_keep_nothing_is_kept_but_what_was_learned(tmp_path: Path) -> None:
    archive = SqliteArchive(tmp_path / "history.db", keep_days=0)
    archive.note(LOAD)
    archive.keep_learned("llm", {"a": 1})
    assert await archive.entries(Query()) == ()
    await archive.close()
    assert await SqliteArchive(tmp_path / "history.db").read_learned() == {"llm": {"a": 1}}


async def test_folder_that_cannot_be_made_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "state").write_text("no folder")
    archive = SqliteArchive(tmp_path / "state" / "history.db")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            archive.note(LOAD)
            assert await archive.entries(Query()) == ()
        assert await archive.read_learned() == {}
        await archive.close()
    assert [record.message for record in caplog.records if "is not kept" in record.message][1:] == []


async def test_questions_do_not_pile_up_while_the_disk_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SEC", 0.01)
    archive, thawed = SqliteArchive(tmp_path / "history.db"), threading.Event()
    held = archive._worker._jobs
    hanging = asyncio.ensure_future(archive._worker.run(lambda: thawed.wait(10)))
    for _ in range(3 * module.MAX_ASKED):
        archive.note(LOAD)
        assert await archive.entries(Query()) == ()
    assert held.qsize() <= module.MAX_ASKED + module.MAX_BESIDE
    thawed.set()
    await hanging
    async with asyncio.timeout(10):
        while archive._beside or archive._asked:  # until what was asked meanwhile is done
            await archive._worker.run(lambda: None)
    monkeypatch.setattr(module, "ANSWER_SEC", 5.0)
    asked = await archive.entries(Query(limit=1000))
    assert asked == (LOAD,) * 3 * module.MAX_ASKED, "it answers again, and nothing is lost"
    await archive.close()


async def test_disk_that_hangs_keeps_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SEC", 0.05)
    monkeypatch.setattr(module, "CLOSE_SEC", 0.05)
    archive, thawed = SqliteArchive(tmp_path / "history.db"), threading.Event()
    monkeypatch.setattr(archive._database, "entries", lambda _query: thawed.wait(30) and ())
    try:
        assert await archive.entries(Query()) == ()
        archive.note(LOAD)
        await archive.close()
    finally:
        thawed.set()
        await archive._worker.run(archive._database.close)  # when the disk is there again


async def test_who_is_stopped_as_the_answer_comes_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = SqliteArchive(tmp_path / "history.db")
    answer = asyncio.get_running_loop().create_future()
    with monkeypatch.context() as patch:
        patch.setattr(archive._worker, "run", lambda _: answer)
        asking = asyncio.create_task(archive.entries(Query()))
        for _ in range(5):
            await asyncio.sleep(0)

        answer.set_result(())
        asking.cancel()

        with pytest.raises(asyncio.CancelledError):
            await asking
    await archive.close()
