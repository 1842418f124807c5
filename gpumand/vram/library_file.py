"""Determines which file the driver's library was loaded from, and whether an upgrade has replaced that file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from gpumand.ports import VramSource

SONAME = "libnvidia-ml.so.1"
STEM = "libnvidia-ml.so"
DELETED = " (deleted)"
MAPS = Path("/proc/self/maps")


@runtime_checkable
class LibrarySource(Protocol):
    """A source of readings that loads a library of the driver."""

    @property
    def needs_new_process(self) -> bool:
        """Whether the driver was upgraded and its new library cannot be loaded into this process."""


def needs_new_process(source: VramSource) -> bool:
    """Return whether only a new process can read from the driver again."""
    return isinstance(source, LibrarySource) and source.needs_new_process


@dataclass(frozen=True, slots=True)
class LibraryFile:
    """A library file as it was when it was loaded.

    Attributes:
        path: the path under which it is loaded, usually a symbolic link.
        identity: device, inode, size and modification time of the file that the path refers to.
    """

    path: Path
    identity: tuple[int, int, int, int]

    @property
    def is_replaced(self) -> bool:
        """Whether the path refers to another file now; False if the path does not exist."""
        now = _identity(self.path)
        return now is not None and now != self.identity


def loaded_file() -> LibraryFile | None:
    """Return the library that is mapped into this process, with its present identity on disk; None if none is mapped.

    This function blocks.
    """
    folder = _folder()
    identity = _identity(folder / SONAME) if folder is not None else None
    return None if folder is None or identity is None else LibraryFile(folder / SONAME, identity)


def is_mapped() -> bool:
    """Return whether a library of the driver is mapped into this process."""
    # A closed library may stay mapped: it may be linked with -z nodelete.
    return _folder() is not None


def _folder() -> Path | None:
    try:
        lines = MAPS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    for line in lines:
        path = line.split(maxsplit=5)[5:]
        if path and os.path.basename(path[0]).startswith(STEM):
            return Path(path[0].removesuffix(DELETED)).parent
    return None


def _identity(path: Path) -> tuple[int, int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
