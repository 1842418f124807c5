"""A folder of small files, each replaced as a whole; plain blocking code, for one thread."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

log = logging.getLogger(__name__)

SUFFIX = ".json"
MAX_BYTES = 64 * 1024
MAX_FILES = 8192
"""More than there can be leases or consumers; a folder that holds more was not filled by us."""

MAX_ASIDE = 32
"""How many files that could not be understood are kept for somebody to look at."""

_OWN_FAULT = {errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO, errno.ENODEV, errno.EISDIR, errno.EIO}
"""What may be wrong with one file; other errors (too many open files) are no fault of it, and it must not suffer."""

_FOLDER_FAULT = {errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}
"""What may be wrong with a folder: it is a file, a link, or somebody else's."""

_TEMPORARY = (".", ".tmp")
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


class Unfit(Exception):
    """A file cannot be used; the message says why, in one line."""


class Folder:
    """Files of one kind.

    Everything is relative to a descriptor of the folder: nobody who swaps it for a link leads us elsewhere.
    """

    def __init__(self, path: Path, aside: Path) -> None:
        """``aside`` is the folder into which files are moved that cannot be used; both are made when needed."""
        self._path = path
        self._aside = aside
        self._descriptor = -1

    def write(self, stem: str, content: bytes) -> None:
        """Replace a file, or make it: after a crash there is the old one or the new one. Raises OSError."""
        self._retried(lambda: self._write(stem + SUFFIX, content))

    def remove(self, stem: str) -> None:
        """Remove a file; one that is not there is removed already. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(stem + SUFFIX, dir_fd=self._opened())
            os.fsync(self._descriptor)

    def read_all(self) -> Iterator[tuple[str, bytes]]:
        """Stem and content of every file; what is no file of ours is set aside. Raises OSError."""
        names = sorted(os.listdir(self._opened()))
        if len(names) > MAX_FILES:
            log.warning("%s holds %d files; those after the first %d are not read", self._path, len(names), MAX_FILES)
        for name in names[:MAX_FILES]:
            try:
                content = self._read(name)
            except FileNotFoundError:
                continue  # removed since it was listed
            except Unfit as unfit:
                self.set_aside(name, str(unfit))
            else:
                yield name.removesuffix(SUFFIX), content

    def set_aside(self, name: str, why: str) -> None:
        """Move a file to where it does no harm, with a warning; never raises."""
        log.warning("%s is set aside: %s", _shown(self._path / name), why)
        try:
            os.rename(name, self._place_aside(name), src_dir_fd=self._opened())
            _prune(self._aside)
        except OSError as error:
            log.warning("%s cannot be set aside: %s", _shown(self._path / name), error.strerror)

    def close(self) -> None:
        """Give the descriptor back; it is taken again when needed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    # -- one file ------------------------------------------------------------------------------------------------

    def _write(self, name: str, content: bytes) -> None:
        temporary = name.join(_TEMPORARY)
        folder = self._opened()
        try:
            self._write_new(temporary, content)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            with contextlib.suppress(OSError):  # the disk may be gone altogether; the first error is the one to tell
                os.unlink(temporary, dir_fd=folder)
            raise
        os.fsync(folder)

    def _write_new(self, name: str, content: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=self._descriptor)
        try:
            while content:
                content = content[os.write(descriptor, content) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _read(self, name: str) -> bytes:
        if not name.endswith(SUFFIX):
            raise Unfit("it is no file of gpumand's")
        # A pipe must not make us wait for its writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        try:
            descriptor = os.open(name, flags, dir_fd=self._descriptor)
            try:
                return _content(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno in _OWN_FAULT:
                raise Unfit(f"it cannot be read: {error.strerror}") from error
            raise

    # -- the folder ----------------------------------------------------------------------------------------------

    def _opened(self) -> int:
        if self._descriptor < 0:
            try:
                self._descriptor = self._open()
            except OSError as error:
                if error.errno not in _FOLDER_FAULT:
                    raise
                self._set_all_aside(error)
                self._descriptor = self._open()
            self._remove_leftovers()
        return self._descriptor

    def _open(self) -> int:
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def _set_all_aside(self, why: OSError) -> None:
        """What stands in the folder's place must not keep us from starting. Raises OSError: it stays there."""
        log.warning("%s is set aside: it cannot be used: %s", _shown(self._path), why.strerror)
        place = self._place_aside(self._path.name)
        try:
            os.rename(self._path, place)
        except PermissionError:  # a folder of somebody else's cannot leave the one it is in
            os.rename(self._path, self._path.with_name(f"{self._aside.name}-{place.name}"))

    def _place_aside(self, name: str) -> Path:
        """Where something of that name goes. Raises OSError."""
        kept_name = f"{time.time_ns():020}-{_safe(name)}"
        try:
            self._aside.mkdir(mode=0o700, parents=True, exist_ok=True)
        except FileExistsError:  # it is no folder either
            os.rename(self._aside, self._aside.with_name(f"{self._aside.name}-{kept_name}"))
            self._aside.mkdir(mode=0o700)
        return self._aside / kept_name

    def _remove_leftovers(self) -> None:
        """Temporary files of a writer that was killed."""
        start, end = _TEMPORARY
        for name in os.listdir(self._descriptor):
            if name.startswith(start) and name.endswith(end):
                with contextlib.suppress(OSError):  # a folder named so; it is set aside when files are read
                    os.unlink(name, dir_fd=self._descriptor)

    def _retried(self, write: Callable[[], None]) -> None:
        """Once more when somebody removed the folder under us: then it is made anew."""
        try:
            write()
        except FileNotFoundError:
            self.close()
            write()


def _content(descriptor: int) -> bytes:
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        raise Unfit("it is no regular file")
    if about.st_uid not in {0, os.geteuid()}:
        raise Unfit(f"it belongs to uid {about.st_uid}")
    if about.st_size > MAX_BYTES:
        raise Unfit(f"it is larger than {MAX_BYTES // 1024} KiB")
    with open(descriptor, "rb", closefd=False) as file:
        return file.read(MAX_BYTES)


def _prune(aside: Path) -> None:
    """Keep the newest; names begin with the time, so that they sort by it."""
    for name in sorted(os.listdir(aside))[:-MAX_ASIDE]:
        path = aside / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _safe(name: str) -> str:
    return "".join(char if char in _SAFE else "_" for char in name)[:100]


def _shown(path: Path) -> str:
    """A path for the log: whoever put a file there chose its name."""
    return repr(str(path))[1:-1]
