"""Which file the driver's library was loaded from, and whether another one is installed in its place by now."""

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
    """A source of figures that has loaded a library of the driver's."""

    @property
    def outlived(self) -> bool:
        """Whether the driver was upgraded, and its new library cannot be loaded into this process."""


def is_outlived(source: VramSource) -> bool:
    """Whether only another process could read from the driver again."""
    return isinstance(source, LibrarySource) and source.outlived


@dataclass(frozen=True, slots=True)
class LibraryFile:
    """A library as it lay on disk when it was loaded.

    Attributes:
        path: the name under which it is loaded, a link as a rule.
        identity: device, inode, size and time of the file behind it.
    """

    path: Path
    identity: tuple[int, int, int, int]

    @property
    def is_replaced(self) -> bool:
        """Whether that name leads to another file now; not where it leads nowhere."""
        now = _identity(self.path)
        return now is not None and now != self.identity


def loaded_file() -> LibraryFile | None:
    """The library that is mapped into this process, as it lies on disk now; None where none is. Blocks."""
    folder = _folder()
    identity = _identity(folder / SONAME) if folder is not None else None
    return None if folder is None or identity is None else LibraryFile(folder / SONAME, identity)


def is_mapped() -> bool:
    """Whether any is mapped. What was closed may stay: a library can ask for that when it is linked (nodelete)."""
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
        about = path.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns
