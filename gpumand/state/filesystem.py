"""Detect directories on in-memory filesystems such as tmpfs."""

from __future__ import annotations

import os
from pathlib import Path

IN_MEMORY = frozenset({"tmpfs", "ramfs"})


def is_in_memory(folder: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether a directory is on an in-memory filesystem, as /run is; False where unknown.

    The type of the filesystem is looked up by device number in mountinfo, see proc_pid_mountinfo(5): field 3 is
    major:minor, and the type follows a lone "-". Raises OSError where the directory does not exist.
    """
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mountinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(_type_of(line) in IN_MEMORY for line in lines if line.split()[2:3] == [wanted])


def _type_of(line: str) -> str:
    _, _, after_separator = line.partition(" - ")
    return after_separator.split(" ")[0]
