"""Where a folder of the store should be, something else is: it is set aside, and the store works."""

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


def a_file(path: Path) -> None:
    path.write_text("what is it?")


def a_link_into_nothing(path: Path) -> None:
    path.symlink_to("/nowhere/at/all")


def a_link_to_a_folder(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a1.json").write_text("{}")
    path.symlink_to(elsewhere)


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("made", [a_file, a_link_into_nothing, a_link_to_a_folder, a_pipe])
@pytest.mark.parametrize("kind", ["leases", "consumers", "loads"])
async def test_what_is_no_folder_is_set_aside(
    store: FileStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, made: Callable[[Path], None], kind: str
) -> None:
    (tmp_path / "state").mkdir()
    made(tmp_path / "state" / kind)
    with caplog.at_level(logging.WARNING):
        assert await store.read_leases() == ()
        assert await store.read_consumers() == {}
        assert await store.read_loads() == {}
    (warning,) = caplog.messages
    assert f"state/{kind} is set aside" in warning
    (kept,) = os.listdir(tmp_path / "state" / "quarantine")
    assert kept.endswith(f"-{kind}")
    await store.put_lease(LEASE)
    assert await store.read_leases() == (LEASE,)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_a_folder_that_may_not_be_read_is_set_aside(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "state" / "leases").mkdir(parents=True, mode=0o000)
    assert await store.read_leases() == ()
    (kept,) = os.listdir(tmp_path / "state" / "quarantine")
    assert kept.endswith("-leases")


async def test_a_quarantine_that_is_no_folder_makes_room_too(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    a_file(tmp_path / "state" / "leases")
    a_file(tmp_path / "state" / "quarantine")
    await store.put_lease(LEASE)
    assert await store.read_leases() == (LEASE,)
    assert len(list((tmp_path / "state").glob("quarantine*"))) == 2


async def test_a_fault_that_is_not_the_folders_is_told(store: FileStore, tmp_path: Path) -> None:
    """Too many open files, a full disk: whoever asked has to know, and nothing is set aside for it."""
    (tmp_path / "state").write_text("the folder above is none")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        await store.read_leases()
