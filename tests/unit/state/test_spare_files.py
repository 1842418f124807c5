"""Files that are used again: each file has the content that was written under its name, whatever happens around it."""

from __future__ import annotations

import contextlib
import errno
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpumand.state import spare_files
from gpumand.state.folder import Folder
from gpumand.state.spare_files import SpareFiles


@pytest.fixture
def spare(tmp_path: Path) -> Path:
    return tmp_path / "spare"


@pytest.fixture
def folder(tmp_path: Path, spare: Path) -> Iterator[Folder]:
    folder = Folder(tmp_path / "leases", tmp_path / "quarantine")
    folder.use_again(SpareFiles(spare))
    yield folder
    folder.close()


def stored(folder: Folder) -> dict[str, bytes]:
    return {stem: content.rstrip() for stem, content in folder.read_all()}


def inode(tmp_path: Path, stem: str) -> int:
    return (tmp_path / "leases" / f"{stem}.json").stat().st_ino


def open_files(tmp_path: Path) -> int:
    """Number of open descriptors of files here; other tests' descriptors come and go."""
    count = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            count += Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_relative_to(tmp_path)
    return count


def test_removed_file_is_used_again(folder: Folder, tmp_path: Path, spare: Path) -> None:
    folder.write("a", b"first")
    before = inode(tmp_path, "a")
    folder.remove("a")
    assert stored(folder) == {}
    folder.write("b", b"second")

    assert stored(folder) == {"b": b"second"}
    assert inode(tmp_path, "b") == before
    assert os.listdir(spare) == []


def test_shorter_content_is_padded_with_spaces_and_nothing_of_the_former_remains(folder: Folder) -> None:
    folder.write("a", b"a long text")
    folder.remove("a")
    folder.write("b", b"short")

    assert dict(folder.read_all()) == {"b": b"short      "}


def test_replaced_file_leaves_no_open_descriptor(folder: Folder, tmp_path: Path) -> None:
    folder.write("a", b"0")
    before = open_files(tmp_path)
    for number in range(50):
        folder.write("a", str(number).encode())

    assert stored(folder) == {"a": b"49"}
    assert open_files(tmp_path) == before


def test_only_some_files_are_kept_open(folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spare_files, "MAX_OPEN", 5)
    folder.write("0", b"0")
    before = open_files(tmp_path)
    for number in range(1, 50):
        folder.write(str(number), str(number).encode())
    assert open_files(tmp_path) <= before + 5

    assert stored(folder) == {str(number): str(number).encode() for number in range(50)}
    for number in range(50):
        folder.remove(str(number))
    assert stored(folder) == {}
    assert open_files(tmp_path) <= before + 5


def test_spare_files_of_a_killed_process_are_removed(folder: Folder, spare: Path) -> None:
    spare.mkdir()
    for number in range(3):
        (spare / str(number)).write_bytes(b"left behind")
    folder.write("a", b"1")

    assert os.listdir(spare) == []
    assert stored(folder) == {"a": b"1"}


def test_close_removes_spare_files_and_closes_all(folder: Folder, tmp_path: Path, spare: Path) -> None:
    before = open_files(tmp_path)
    for stem in ("a", "b"):
        folder.write(stem, b"1")
    folder.remove("a")
    folder.close()

    assert os.listdir(spare) == []
    assert open_files(tmp_path) == before
    assert stored(folder) == {"b": b"1"}


def test_file_that_another_program_put_in_place_is_not_used_again(folder: Folder, tmp_path: Path) -> None:
    folder.write("a", b"ours")
    other = tmp_path / "other"
    other.write_bytes(b"of another program")
    other.rename(tmp_path / "leases" / "a.json")
    folder.remove("a")
    folder.write("b", b"next")

    assert stored(folder) == {"b": b"next"}


def put_copy_in_place(path: Path) -> None:
    """Replace a file as some editors do, which keep the former one under another name."""
    former = path.with_name("former")
    path.rename(former)
    path.write_bytes(former.read_bytes())


def keep_second_name(path: Path) -> None:
    path.with_name("former").hardlink_to(path)


def make_unreadable(path: Path) -> None:
    path.chmod(0o200)


def put_folder_in_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b" and a line of an administrator\n")


def cut_off(path: Path) -> None:
    path.write_bytes(b"")


CHANGES = [put_copy_in_place, keep_second_name, make_unreadable, put_folder_in_place, append, cut_off]


@pytest.mark.parametrize("change", CHANGES)
def test_file_that_was_changed_by_an_administrator_is_not_used_again(
    change: Callable[[Path], None], folder: Folder, tmp_path: Path
) -> None:
    folder.write("a", b"1")
    change(tmp_path / "leases" / "a.json")
    folder.remove("a")
    folder.write("b", b"2")

    path = tmp_path / "leases" / "b.json"
    assert path.read_bytes() == b"2"
    assert path.stat().st_mode & 0o777 == 0o600
    former = tmp_path / "leases" / "former"
    assert not former.exists() or former.read_bytes() == b"1"
    assert stored(folder) == {"b": b"2"}


def test_two_processes_with_one_directory_never_write_into_a_file_of_the_other(tmp_path: Path, seed: int) -> None:
    rng, expected = random.Random(seed), dict[str, bytes]()
    folders = [Folder(tmp_path / "leases", tmp_path / "quarantine") for _ in range(2)]
    for folder in folders:
        folder.use_again(SpareFiles(tmp_path / "spare"))
    for step in range(800):
        number = rng.randrange(2)
        stem = f"{number}-{rng.randrange(8)}"
        if rng.random() < 0.5:
            expected[stem] = f"{stem} {step}".encode()
            folders[number].write(stem, expected[stem])
        else:
            expected.pop(stem, None)
            folders[number].remove(stem)
        if rng.random() < 0.01:
            folders[number].close()  # as after a restart: the next use removes all spare files, also of the other

        assert {path.stem: path.read_bytes().rstrip() for path in (tmp_path / "leases").iterdir()} == expected
    for folder in folders:
        folder.close()


def test_deleted_file_is_no_error_and_is_not_used_again(folder: Folder, tmp_path: Path) -> None:
    folder.write("a", b"1")
    (tmp_path / "leases" / "a.json").unlink()
    folder.remove("a")
    folder.write("b", b"2")

    assert stored(folder) == {"b": b"2"}


def make_file(path: Path) -> None:
    path.write_text("a file")


def make_link(path: Path) -> None:
    path.symlink_to(path.parent)


@pytest.mark.parametrize("make", [make_file, make_link, os.mkfifo])
def test_something_else_in_place_of_the_spare_directory_only_costs_time(
    make: Callable[[Path], None], folder: Folder, spare: Path
) -> None:
    make(spare)
    folder.write("a", b"1")
    folder.write("b", b"2")
    folder.remove("a")

    assert stored(folder) == {"b": b"2"}


@pytest.mark.parametrize("deleted", ["spare", "leases", "both"])
def test_deleted_directories_are_made_again(deleted: str, folder: Folder, tmp_path: Path, spare: Path) -> None:
    folder.write("a", b"1")
    folder.write("b", b"2")
    folder.remove("a")
    for path in (tmp_path / "leases", spare):
        if deleted in (path.name, "both"):
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    folder.remove("b")
    for stem in ("c", "d"):
        folder.write(stem, stem.encode())

    assert stored(folder) == {"c": b"c", "d": b"d"}


def test_failed_write_keeps_the_former_file(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("a", b"old")
    folder.write("b", b"other")
    folder.remove("b")

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as during:
        during.setattr(os, "pwrite", full)
        during.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            folder.write("a", b"new")

    assert stored(folder) == {"a": b"old"}
    folder.write("a", b"new")
    assert stored(folder) == {"a": b"new"}


def test_short_write_is_not_taken_for_a_file(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: whole(descriptor, data[:2], offset))
    folder.write("a", b"0123456789")

    assert stored(folder) == {"a": b"0123456789"}


def test_random_writes_and_removals_leave_what_was_written_last(folder: Folder, seed: int) -> None:
    rng, expected = random.Random(seed), dict[str, bytes]()
    for step in range(3000):
        stem = str(rng.randrange(60))
        if rng.random() < 0.6:
            expected[stem] = (f"{stem} {step} " + "x" * rng.randrange(500)).rstrip().encode()
            folder.write(stem, expected[stem])
        else:
            expected.pop(stem, None)
            folder.remove(stem)
        if rng.random() < 0.002:
            folder.close()

    assert stored(folder) == expected
