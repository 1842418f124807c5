"""The file store: state survives restarts, and no unusable file prevents a start."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gpumand.domain.lease import Lease, LeaseLifetime, Owner
from gpumand.ports import Store
from gpumand.state import FileStore
from gpumand.state.folder import MAX_BYTES, MAX_QUARANTINED

BUS, BOOT = "b" * 32, "0c9bb3b8-8dbb-4b8a-9d0a-000000000001"
LEASE = Lease(
    "a1", "tts", "0", Owner(":1.5", 1000, 77, "a.service", "f" * 32), LeaseLifetime.TTL, 10, 20, 9.0, "w", "t"
)

Opener = Callable[..., FileStore]


@pytest.fixture
async def open_store(tmp_path: Path) -> AsyncIterator[Opener]:
    """Opens stores on one directory, like consecutive runs of the daemon."""
    stores: list[FileStore] = []

    def again(bus_id: str = BUS, boot_id: str = BOOT) -> FileStore:
        stores.append(FileStore(tmp_path / "state", bus_id, boot_id))
        return stores[-1]

    yield again
    for store in stores:
        await store.close()


@pytest.fixture
def leases(tmp_path: Path) -> Path:
    folder = tmp_path / "state" / "leases"
    folder.mkdir(parents=True)
    return folder


def quarantined_names(tmp_path: Path) -> list[str]:
    folder = tmp_path / "state" / "quarantine"
    return sorted(name.split("-", 1)[1] for name in os.listdir(folder)) if folder.exists() else []


def files(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


@contextmanager
def file_size_limit(byte_count: int) -> Iterator[None]:
    """Limit the size of files of this process; Python ignores SIGXFSZ, so that a write raises EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (byte_count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_new_store_creates_no_files(open_store: Opener, tmp_path: Path) -> None:
    store: Store = open_store()

    assert not (tmp_path / "state").exists()
    assert await store.read_leases() == ()
    assert await store.read_consumers() == {}


async def test_lease_survives_the_store(open_store: Opener) -> None:
    await open_store().put_lease(LEASE)

    assert await open_store().read_leases() == (LEASE,)


async def test_lease_put_again_is_replaced(open_store: Opener) -> None:
    store = open_store()
    await store.put_lease(LEASE)
    renewed = replace(LEASE, expires_usec=99)
    await store.put_lease(renewed)

    assert await open_store().read_leases() == (renewed,)


async def test_dropping_a_lease_twice_is_no_error(open_store: Opener) -> None:
    store = open_store()
    await store.put_lease(LEASE)
    await store.drop_lease("a1")
    await store.drop_lease("a1")

    assert await open_store().read_leases() == ()


async def test_leases_are_returned_oldest_first(open_store: Opener) -> None:
    store = open_store()
    for lease_id, granted in (("x", 3), ("b", 1), ("a", 1), ("c", 2)):
        await store.put_lease(replace(LEASE, id=lease_id, granted_usec=granted))

    assert [lease.id for lease in await open_store().read_leases()] == ["a", "b", "c", "x"]


async def test_concurrent_writes_are_done_in_order(open_store: Opener) -> None:
    store = open_store()
    await asyncio.gather(
        store.put_lease(LEASE),
        store.put_lease(replace(LEASE, expires_usec=1)),
        store.drop_lease("a1"),
        store.put_lease(replace(LEASE, expires_usec=2)),
    )

    assert [lease.expires_usec for lease in await store.read_leases()] == [2]


async def test_consumers_survive_the_store_and_the_boot(open_store: Opener) -> None:
    store = open_store()
    await store.put_consumer("tts", True, 5)
    await store.put_consumer("../llm.x", None, 6)
    await store.put_consumer("tts", False, 7)

    assert await open_store("another", "another").read_consumers() == {"tts": (False, 7), "../llm.x": (None, 6)}


async def test_loads_survive_the_store_but_not_the_boot(open_store: Opener, tmp_path: Path) -> None:
    store = open_store()
    await store.put_load("tts", (1,), 5)
    await store.put_load("../llm.x", (0, 3), 6)
    await store.put_load("tts", (0,), 7)
    await store.put_load("done", (0,), 8)
    await store.drop_load("done")
    await store.drop_load("never there")
    (tmp_path / "state" / "loads" / "bad.json").write_text('{"format": 1, "consumer": "bad", "device": -1}')

    assert await open_store("another").read_loads() == {"tts": ((0,), 7), "../llm.x": ((0, 3), 6)}
    assert files(tmp_path / "state" / "loads") == ["%2E%2E%2Fllm%2Ex.json", "tts.json"]
    assert await open_store("another", "another").read_loads() == {}
    assert files(tmp_path / "state" / "loads") == []


async def test_files_are_private_and_no_temporary_file_remains(open_store: Opener, tmp_path: Path) -> None:
    store = open_store()
    await store.put_lease(LEASE)
    await store.put_consumer("t.x", None, 1)

    assert files(tmp_path / "state" / "leases") == ["a1.json"]
    assert files(tmp_path / "state" / "consumers") == ["t%2Ex.json"]
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "state").rglob("*.json")}
    assert modes == {0o600}
    assert (tmp_path / "state" / "leases").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("lease_id", ["", "../a", "a/b", ".", "a b", "é", "a" * 65, "a\n"])
async def test_invalid_lease_id_is_rejected(lease_id: str, open_store: Opener) -> None:
    store = open_store()

    with pytest.raises(ValueError, match="is not a valid lease id"):
        await store.put_lease(replace(LEASE, id=lease_id))
    with pytest.raises(ValueError, match="is not a valid lease id"):
        await store.drop_lease(lease_id)


# -- another boot, another bus ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("lifetime", LeaseLifetime)
async def test_lease_of_another_boot_is_removed(
    lifetime: LeaseLifetime, open_store: Opener, leases: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await open_store().put_lease(replace(LEASE, lifetime=lifetime))

    assert await open_store(boot_id="another").read_leases() == ()
    assert files(leases) == []
    assert caplog.messages == ["removed 1 ended lease of another boot"]


async def test_connection_lease_of_another_bus_is_removed(open_store: Opener, leases: Path) -> None:
    await open_store().put_lease(replace(LEASE, lifetime=LeaseLifetime.CONNECTION))
    assert len(await open_store().read_leases()) == 1

    assert await open_store(bus_id="another").read_leases() == ()
    assert files(leases) == []


@pytest.mark.parametrize("lifetime", [LeaseLifetime.TTL, LeaseLifetime.UNIT])
async def test_bus_name_of_another_bus_is_emptied(lifetime: LeaseLifetime, open_store: Opener) -> None:
    lease = replace(LEASE, lifetime=lifetime)
    await open_store().put_lease(lease)

    expected = replace(lease, owner=replace(lease.owner, bus_name=""))
    assert await open_store(bus_id="another").read_leases() == (expected,)


# -- unusable files -------------------------------------------------------------------------------------------------


def link_to_file(path: Path) -> None:
    target = path.parent.parent / "elsewhere"
    target.write_bytes(b"{}")
    path.symlink_to(target)


HOSTILE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(b"\0" * 500),
    "truncated": lambda path: path.write_bytes((path.parent / "a1.json").read_bytes()[:-9]),
    "of another lease": lambda path: path.write_bytes((path.parent / "a1.json").read_bytes()),
    "oversized": lambda path: path.write_bytes((path.parent / "a1.json").read_bytes() + b" " * MAX_BYTES),
    "a link": link_to_file,
    "a dangling link": lambda path: path.symlink_to("nowhere"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a folder": lambda path: (path / "deep").mkdir(parents=True),
    "a pipe": os.mkfifo,
    "nested": lambda path: path.write_bytes(b"[" * 60_000),
}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_unusable_file_is_quarantined_once(
    kind: str, open_store: Opener, leases: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await open_store().put_lease(LEASE)
    HOSTILE[kind](leases / "bad.json")

    assert await open_store().read_leases() == (LEASE,)

    assert files(leases) == ["a1.json"]
    assert quarantined_names(tmp_path) == ["bad.json"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "bad.json is unusable and is moved to quarantine: " in record.getMessage()

    caplog.clear()
    assert await open_store().read_leases() == (LEASE,)
    assert caplog.records == []


async def test_target_of_a_link_is_not_modified(open_store: Opener, leases: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (leases / "a1.json").symlink_to(victim)

    store = open_store()
    await store.put_lease(LEASE)

    assert victim.read_text() == "precious"
    assert not (leases / "a1.json").is_symlink()
    assert await store.read_leases() == (LEASE,)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root")
async def test_file_of_another_user_is_quarantined(open_store: Opener, leases: Path, tmp_path: Path) -> None:
    await open_store().put_lease(LEASE)
    os.chown(leases / "a1.json", 12345, -1)

    assert await open_store().read_leases() == ()
    assert quarantined_names(tmp_path) == ["a1.json"]


@pytest.mark.parametrize("name", ["README", "a1.json.bak", "a\nb\x1b[1m"])
async def test_foreign_file_is_quarantined(
    name: str, open_store: Opener, leases: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (leases / name).write_text("hello")

    assert await open_store().read_leases() == ()

    assert len(quarantined_names(tmp_path)) == 1
    assert caplog.messages[0].isprintable()


async def test_unusable_consumer_is_quarantined_and_others_are_read(
    open_store: Opener, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store()
    await store.put_consumer("llm", True, 1)
    await store.put_consumer("tts", True, 1)
    (tmp_path / "state" / "consumers" / "tts.json").write_bytes(b"{")

    assert await store.read_consumers() == {"llm": (True, 1)}
    assert quarantined_names(tmp_path) == ["tts.json"]
    assert len(caplog.records) == 1


async def test_quarantine_keeps_only_the_newest_files(open_store: Opener, leases: Path, tmp_path: Path) -> None:
    for number in range(MAX_QUARANTINED + 5):
        (leases / f"{number:03}.json").write_bytes(b"")
    (leases / "000-folder").mkdir()

    assert await open_store().read_leases() == ()

    assert quarantined_names(tmp_path) == [f"{number:03}.json" for number in range(5, MAX_QUARANTINED + 5)]


async def test_temporary_files_of_a_killed_writer_are_removed_silently(
    open_store: Opener, leases: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (leases / ".a1.json.tmp").write_bytes(b'{"format"')

    store = open_store()
    assert await store.read_leases() == ()
    await store.put_lease(LEASE)

    assert files(leases) == ["a1.json"]
    assert quarantined_names(tmp_path) == []
    assert caplog.records == []


# -- failing disks --------------------------------------------------------------------------------------------------


async def test_full_disk_raises_an_error_and_keeps_the_old_file(open_store: Opener, leases: Path) -> None:
    store = open_store()
    await store.put_lease(LEASE)

    with file_size_limit(100), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        await store.put_lease(replace(LEASE, expires_usec=99))

    assert files(leases) == ["a1.json"]
    assert await open_store().read_leases() == (LEASE,)
    await store.put_lease(replace(LEASE, expires_usec=99))
    assert [lease.expires_usec for lease in await open_store().read_leases()] == [99]


async def test_uncreatable_directory_raises_an_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    store = FileStore(tmp_path / "state", BUS, BOOT)

    with pytest.raises(OSError, match="Not a directory"):
        await store.put_lease(LEASE)
    with pytest.raises(OSError, match="Not a directory"):
        await store.read_leases()
    await store.close()


async def test_removed_directory_is_created_again(open_store: Opener, leases: Path) -> None:
    store = open_store()
    await store.put_lease(LEASE)
    shutil.rmtree(leases)

    await store.drop_lease("a1")
    await store.put_lease(LEASE)

    assert await open_store().read_leases() == (LEASE,)


async def test_too_many_open_files_quarantines_nothing(open_store: Opener, leases: Path, tmp_path: Path) -> None:
    store = open_store()
    await store.put_lease(LEASE)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))  # open descriptors stay open
    try:
        with pytest.raises(OSError, match="Too many open files"):
            await store.read_leases()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert quarantined_names(tmp_path) == []
    assert await store.read_leases() == (LEASE,)


async def test_closing_finishes_pending_writes_and_refuses_new_ones(open_store: Opener) -> None:
    store = open_store()
    pending = [asyncio.ensure_future(store.put_lease(replace(LEASE, id=f"a{number}"))) for number in range(20)]
    await asyncio.sleep(0)

    await store.close()

    await asyncio.gather(*pending)
    assert len(await open_store().read_leases()) == 20
    with pytest.raises(OSError, match="closed"):
        await store.put_lease(LEASE)


async def test_store_leaves_no_descriptor_open(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    store = FileStore(tmp_path / "state", BUS, BOOT)
    await store.put_lease(LEASE)
    await store.put_consumer("tts", None, 0)
    await store.read_leases()

    await store.close()

    assert set(os.listdir("/proc/self/fd")) == before
