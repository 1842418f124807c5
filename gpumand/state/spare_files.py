"""Files that have been written and removed, to be used again; blocking code, for a directory in memory.

A lease comes and goes with a file of its own. To create, write, close, rename and remove a file takes twice as long as
to write into one that is still open, and to rename it twice.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

MAX_OPEN = 40
"""Files kept open: about as many as there are leases at the same time on a busy host. Others are written as usual."""

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class _OpenFile:
    """An open file.

    Attributes:
        name: its name while it is spare.
        descriptor: open for writing.
        about: its mode, inode, device, number of names and owner as created.
        size: bytes of the longest content so far.
    """

    name: str
    descriptor: int
    about: tuple[object, ...]
    size: int = 0


class SpareFiles:
    """Moves open files between a directory and one of spare files.

    A file gets its name when its content is complete, and loses it before it is written again. So after a crash at any
    moment, each file in the directory has the content that was written under its name. Content is padded with spaces to
    the length of the longest one before, which JSON allows.

    Args:
        path: the directory of spare files, on the same filesystem; what is in it from an earlier process is removed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = -1
        self._spares: list[_OpenFile] = []
        self._in_use: dict[str, _OpenFile] = {}
        self._created = 0
        self._token = secrets.token_hex(8)

    def write(self, folder: int, name: str, content: bytes) -> bool:
        """Create or replace a file of a directory; returns False if that has to be done without a spare file.

        Args:
            folder: descriptor of the directory.
            name: name of the file.
            content: all of its content.
        """
        spare = self._take()
        if spare is None:
            return False
        padded = content.ljust(spare.size)
        try:
            complete = os.pwrite(spare.descriptor, padded, 0) == len(padded)
            if complete:
                os.rename(spare.name, name, src_dir_fd=self._folder, dst_dir_fd=folder)
        except OSError:
            complete = False  # such as a directory that was deleted, or no memory for a larger file
        if not complete:
            self._give_up(spare)
            return False
        spare.size = len(padded)
        self._forget(name)
        self._in_use[name] = spare
        return True

    def remove(self, folder: int, name: str) -> bool:
        """Make a file a spare one; returns False if it has to be removed instead."""
        file = self._in_use.pop(name, None)
        if file is None:
            return False
        try:
            os.rename(name, file.name, src_dir_fd=folder, dst_dir_fd=self._folder)
        except OSError:
            self._give_up(file)
            return False
        if self._is_as_created(file):
            self._spares.append(file)
        else:
            self._give_up(file)
        return True

    def close(self) -> None:
        """Close all files, and remove those that are spare."""
        while self._spares:
            self._give_up(self._spares.pop())
        for name in tuple(self._in_use):
            self._forget(name)
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def _take(self) -> _OpenFile | None:
        if self._spares:
            return self._spares.pop()
        if len(self._in_use) >= MAX_OPEN:
            return None
        try:
            self._open_folder()
            self._created += 1
            # No other process with this directory may use the same name, and exchange its file for one of this process.
            name = f"{self._token}-{self._created}"
            descriptor = os.open(name, _FLAGS, 0o600, dir_fd=self._folder)
        except OSError:
            return None
        return _OpenFile(name, descriptor, os.fstat(descriptor)[:5])

    def _is_as_created(self, file: _OpenFile) -> bool:
        """Whether a spare file is the open one, without other names, and as large as it was written.

        An administrator may have put another file in its place while it was in use, have kept it under a second name,
        have given it to another user, or have written more to it than the next content would cover.
        """
        try:
            about = os.stat(file.name, dir_fd=self._folder, follow_symlinks=False)
        except OSError:
            return False
        return about[:5] == file.about and about.st_size == file.size

    def _open_folder(self) -> None:
        if self._folder >= 0:
            return
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        for name in os.listdir(self._folder):
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._folder)

    def _forget(self, name: str) -> None:
        """Close a file that stays, or that another one has replaced."""
        file = self._in_use.pop(name, None)
        if file is not None:
            os.close(file.descriptor)

    def _give_up(self, spare: _OpenFile) -> None:
        os.close(spare.descriptor)
        with contextlib.suppress(OSError):
            os.unlink(spare.name, dir_fd=self._folder)
