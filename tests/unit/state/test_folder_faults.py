"""Unusable directories of the store are moved to quarantine, and the store works."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from gpumand.domain.lease import Lease, LeaseLifetime, Owner
from gpumand.state import FileStore

LEASE = Lease("a1", "tts", "0", Owner(":1.5", 1000), LeaseLifetime.TTL, 10, 20, 9.0)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FileStore]:
    one = FileStore(tmp_path / "state", "b" * 32, "boot")
    yield one
    await one.close()


def regular_file(path: Path) -> None:
    path.write_text("what is it?")


def dangling_link(path: Path) -> None:
    path.symlink_to("/nowhere/at/all")


def link_to_directory(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a1.json").write_text("{}")
    path.symlink_to(elsewhere)


def named_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("made", [regular_file, dangling_link, link_to_directory, named_pipe])
@pytest.mark.parametrize("kind", ["leases", "consumers", "loads"])
async def test_file_in_place_of_a_directory_is_quarantined(
    store: FileStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, made: Callable[[Path], None], kind: str
) -> None:
    (tmp_path / "state").mkdir()
    made(tmp_path / "state" / kind)
    with caplog.at_level(logging.WARNING):
        assert await store.read_leases() == ()
        assert await store.read_consumers() == {}
        assert await store.read_loads() == {}
    (warning,) = caplog.messages
    assert f"state/{kind} is unusable and is moved to quarantine" in warning
    (kept,) = os.listdir(tmp_path / "state" / "quarantine")
    assert kept.endswith(f"-{kind}")
    await store.put_lease(LEASE)
    assert await store.read_leases() == (LEASE,)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
async def test_unreadable_directory_is_quarantined(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "state" / "leases").mkdir(parents=True, mode=0o000)
    assert await store.read_leases() == ()
    (kept,) = os.listdir(tmp_path / "state" / "quarantine")
    assert kept.endswith("-leases")


async def test_file_in_place_of_the_quarantine_is_renamed(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    regular_file(tmp_path / "state" / "leases")
    regular_file(tmp_path / "state" / "quarantine")
    await store.put_lease(LEASE)
    assert await store.read_leases() == (LEASE,)
    assert len(list((tmp_path / "state").glob("quarantine*"))) == 2


async def test_error_not_caused_by_the_directory_is_raised(store: FileStore, tmp_path: Path) -> None:
    """Errors such as too many open files or a full disk are raised to the caller, and nothing is quarantined."""
    (tmp_path / "state").write_text("a file in place of the parent directory")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        await store.read_leases()
