"""Reads the configuration files that decide what the programs here may do: only those that root alone can write."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

DEFAULT_FILE = Path("/etc/gpumand/gpumand.toml")
DEFAULT_FOLDER = Path("/etc/gpumand/conf.d")
MAX_FILE_BYTES = 1 << 20


def configuration_files(folder: Path = DEFAULT_FILE.parent) -> list[Path]:
    """The configuration files that the daemon reads by default, below its configuration directory."""
    return [folder / DEFAULT_FILE.name, *sorted((folder / DEFAULT_FOLDER.name).glob("*.toml"))]


def read_trusted(file: Path, owner_uid: int) -> str:
    """Return the text of a file. Raises OSError, also where another user than its owner could have written it.

    Args:
        file: the file.
        owner_uid: user id that must own it.
    """
    with file.open("rb") as stream:
        # fstat of the open file: a check by path could be passed by one file and the content read from another.
        info = os.fstat(stream.fileno())
        if info.st_uid != owner_uid or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or not stat.S_ISREG(info.st_mode):
            raise PermissionError(f"{file} is writable by other users than root")
        return stream.read(MAX_FILE_BYTES).decode()


def table(value: Any) -> dict[str, Any]:
    """The value if it is a table, else an empty one."""
    return value if isinstance(value, dict) else {}
