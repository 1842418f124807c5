"""Held jobs are kept in a file, which an earlier process or anything else may have damaged."""

from __future__ import annotations

import json
import stat
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from gpumand.gateway.job_records import FILE, MAX_FILE_BYTES, MAX_RECORDS, JobRecord, JobStore

JOB = JobRecord("a1", "comfyui", "comfyui", "38a640", "http://127.0.0.1:8188", "alice", "POST", "/prompt", 200, 1700)


async def stored(folder: Path) -> tuple[JobRecord, ...]:
    return await JobStore(lambda: folder).load()


async def test_jobs_are_read_again_by_the_next_process_until_they_are_discarded(tmp_path: Path) -> None:
    store, other = JobStore(lambda: tmp_path), replace(JOB, id="b2")
    store.put(JOB)
    store.put(other)
    store.put(replace(JOB, lease="new"))
    await store.close()
    assert await stored(tmp_path) == (replace(JOB, lease="new"), other)
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600

    following = JobStore(lambda: tmp_path)
    await following.load()
    following.discard(JOB)
    following.discard(JOB)
    await following.close()
    assert await stored(tmp_path) == (other,)


async def test_only_the_newest_jobs_are_kept(tmp_path: Path) -> None:
    store = JobStore(lambda: tmp_path)
    for number in range(MAX_RECORDS + 2):
        store.put(replace(JOB, id=str(number), path="/" + "x" * 1023))
    await store.close()

    found = await stored(tmp_path)
    assert (len(found), found[0].id, found[-1].id) == (MAX_RECORDS, "2", str(MAX_RECORDS + 1))


async def test_missing_folder_is_no_obstacle(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = JobStore(lambda: tmp_path / "missing")
    assert await store.load() == ()
    store.put(JOB)
    await store.close()

    assert "held jobs cannot be written" in caplog.text


def document(*jobs: Any, version: Any = 1) -> bytes:
    return json.dumps({"version": version, "jobs": jobs}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 100_000,
        b"\xff\xfe",
        b'{"version": 1}',
        document(asdict(JOB), version=2),
        document(None, [], {}, asdict(JOB) | {"status": "200"}, asdict(JOB) | {"began_usec": -1}),
        document(asdict(JOB) | {"status": True}, asdict(JOB) | {"lease": ""}, asdict(JOB) | {"path": "x" * 1025}),
        document(asdict(JOB) | {"more": 1}),
        b" " * MAX_FILE_BYTES + document(asdict(JOB)),
    ],
)
async def test_unusable_file_counts_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert await stored(tmp_path) == ()


async def test_usable_jobs_of_a_damaged_file_are_kept(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(document(None, asdict(JOB)))
    assert await stored(tmp_path) == (JOB,)


async def test_link_in_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(document(asdict(JOB)))
    (tmp_path / FILE).symlink_to(tmp_path / "other")
    assert await stored(tmp_path) == ()
