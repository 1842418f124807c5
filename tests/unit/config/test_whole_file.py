"""A file is written as a whole, or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from gpumand.config.whole_file import write_whole


def public(descriptor: int) -> None:
    os.fchmod(descriptor, 0o644)


def refused(_descriptor: int) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_file_is_replaced_with_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text("old", encoding="utf-8")
    write_whole(path, b"new", public)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_new_file_is_its_owners_alone_until_its_permissions_are_set(tmp_path: Path) -> None:
    seen: list[tuple[int, bool]] = []
    path = tmp_path / "keys.toml"
    write_whole(path, b"new", lambda one: seen.append((stat.S_IMODE(os.fstat(one).st_mode), path.exists())))
    assert seen == [(0o600, False)]


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(PermissionError):
        write_whole(path, b"new", refused)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_link_does_not_replace_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(FileExistsError):
        write_whole(path, b"new", public, os.link)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]
    write_whole(tmp_path / "other.toml", b"new", public, os.link)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["keys.toml", "other.toml"]
