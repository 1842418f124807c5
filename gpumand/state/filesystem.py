"""Whether a folder lies in memory."""

from __future__ import annotations

import os
from pathlib import Path

IN_MEMORY = frozenset({"tmpfs", "ramfs"})


def is_in_memory(folder: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether what is written to a folder stays in memory, as in /run; False where that cannot be told.

    The file system's type is looked up by device number in mountinfo, see proc_pid_mountinfo(5): fields 3 (major:minor)
    and, behind a lone "-", the type. Raises OSError where there is no such folder.
    """
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mountinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(_type_of(line) in IN_MEMORY for line in lines if line.split()[2:3] == [wanted])


def _type_of(line: str) -> str:
    _, _, behind = line.partition(" - ")
    return behind.split(" ")[0]
