"""Detection of in-memory filesystems."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpumand.state.filesystem import is_in_memory


def mountinfo(tmp_path: Path, kind: str) -> Path:
    device = tmp_path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    path = tmp_path / "mountinfo"
    path.write_text(
        f"21 1 254:99 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
        f"29 21 {number} / /somewhere rw,nosuid shared:5 master:2 - {kind} {kind} rw\n"
    )
    return path


@pytest.mark.parametrize(("kind", "expected"), [("tmpfs", True), ("ramfs", True), ("ext4", False), ("nfs4", False)])
def test_filesystem_type_decides(tmp_path: Path, kind: str, expected: bool) -> None:
    assert is_in_memory(tmp_path, mountinfo(tmp_path, kind)) is expected


def test_unknown_filesystem_counts_as_disk(tmp_path: Path) -> None:
    assert not is_in_memory(tmp_path, tmp_path / "none")
    (tmp_path / "empty").write_text("")
    assert not is_in_memory(tmp_path, tmp_path / "empty")


def test_mounts_of_this_host_are_classified() -> None:
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    in_memory = [Path(point) for point, kind in mounts if kind == "tmpfs" and Path(point).is_dir()]

    assert all(is_in_memory(point) for point in in_memory if os.path.ismount(point))
    assert not is_in_memory(Path("/proc"))
