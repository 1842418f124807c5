"""A directory of small files that are replaced atomically; blocking code, to be used by one thread."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gpumand.state.spare_files import SpareFiles

log = logging.getLogger(__name__)

SUFFIX = ".json"
MAX_BYTES = 64 * 1024
MAX_FILES = 8192
"""More than the limits on leases and consumers allow; further files were not written by gpumand."""

MAX_QUARANTINED = 32
"""Number of unusable files kept in quarantine, for an administrator to inspect."""

_FILE_ERRORS = {errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO, errno.ENODEV, errno.EISDIR, errno.EIO}
"""Errors caused by the file itself. A file must not be moved because of others, such as too many open files."""

_FOLDER_ERRORS = {errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}
"""Errors caused by the directory itself: it is a file, a symbolic link, or belongs to another user."""

_TEMPORARY = (".", ".tmp")
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


class UnusableFile(Exception):
    """A file cannot be used; the message is the reason, in one line."""


class Folder:
    """A directory with the state files of one kind.

    All operations are relative to an open descriptor of the directory, so that replacing the directory with a symbolic
    link cannot redirect them.
    """

    def __init__(self, path: Path, quarantine: Path) -> None:
        """Nothing is created before the first use.

        Args:
            path: the directory.
            quarantine: directory to which unusable files are moved.
        """
        self._path = path
        self._quarantine = quarantine
        self._descriptor = -1
        self._sync: Callable[[int], None] = os.fsync
        self._spares: SpareFiles | None = None

    def skip_syncs(self) -> None:
        """Do not wait for a disk: the directory is in memory, where a write is complete when it returns."""
        self._sync = _no_sync

    def use_again(self, spares: SpareFiles) -> None:
        """Use removed files again, in a directory in memory whose files are many and short-lived."""
        if self._spares is not None:
            self._spares.close()
        self._spares = spares

    def write(self, stem: str, content: bytes) -> None:
        """Create or replace a file; after a crash it has the old or the new content. Raises OSError."""
        try:
            self._write(stem + SUFFIX, content)
        except FileNotFoundError:  # the directory was removed while open: opening it again creates it
            self.close()
            self._write(stem + SUFFIX, content)

    def remove(self, stem: str) -> None:
        """Remove a file; a missing file is not an error. Raises OSError."""
        name, folder = stem + SUFFIX, self._open_once()
        if self._spares is not None and self._spares.remove(folder, name):
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
            self._sync(folder)

    def read_all(self) -> Iterator[tuple[str, bytes]]:
        """Stem and content of every file; unusable files are moved to quarantine. Raises OSError."""
        names = sorted(os.listdir(self._open_once()))
        if len(names) > MAX_FILES:
            log.warning("%s has %d files; only the first %d are read", self._path, len(names), MAX_FILES)
        for name in names[:MAX_FILES]:
            try:
                content = self._read(name)
            except FileNotFoundError:
                continue  # removed since it was listed
            except UnusableFile as unfit:
                self.quarantine_file(name, str(unfit))
            else:
                yield name.removesuffix(SUFFIX), content

    def quarantine_file(self, name: str, why: str) -> None:
        """Move a file to quarantine, with a warning; never raises."""
        log.warning("%s is unusable and is moved to quarantine: %s", _printable(self._path / name), why)
        try:
            os.rename(name, self._quarantine_path(name), src_dir_fd=self._open_once())
            _remove_oldest(self._quarantine)
        except OSError as error:
            log.warning("%s cannot be moved to quarantine: %s", _printable(self._path / name), error.strerror)

    def close(self) -> None:
        """Close the descriptors; the next operation opens them again."""
        if self._spares is not None:
            self._spares.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    # -- one file ------------------------------------------------------------------------------------------------

    def _write(self, name: str, content: bytes) -> None:
        folder = self._open_once()
        if self._spares is not None and self._spares.write(folder, name, content):
            return
        temporary = name.join(_TEMPORARY)
        # Write a temporary file, sync it, rename it over the old file and sync the directory: after a crash at any
        # moment the file is complete, with the old or the new content.
        try:
            self._write_new(temporary, content)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            with contextlib.suppress(OSError):  # the disk may have failed altogether; report the first error
                os.unlink(temporary, dir_fd=folder)
            raise
        self._sync(folder)

    def _write_new(self, name: str, content: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=self._descriptor)
        try:
            while content:
                content = content[os.write(descriptor, content) :]
            self._sync(descriptor)
        finally:
            os.close(descriptor)

    def _read(self, name: str) -> bytes:
        if not name.endswith(SUFFIX):
            raise UnusableFile(f"its name does not end with {SUFFIX}")
        # O_NONBLOCK: opening a named pipe must not wait for a writer. O_NOFOLLOW: a symbolic link is refused.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        try:
            descriptor = os.open(name, flags, dir_fd=self._descriptor)
            try:
                return _read_checked(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno in _FILE_ERRORS:
                raise UnusableFile(f"it cannot be read: {error.strerror}") from error
            raise

    # -- the folder ----------------------------------------------------------------------------------------------

    def _open_once(self) -> int:
        if self._descriptor < 0:
            try:
                self._descriptor = self._open()
            except OSError as error:
                if error.errno not in _FOLDER_ERRORS:
                    raise
                self._quarantine_folder(error)
                self._descriptor = self._open()
            self._remove_leftovers()
        return self._descriptor

    def _open(self) -> int:
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def _quarantine_folder(self, why: OSError) -> None:
        """Move whatever is in place of the directory to quarantine, so that the daemon can start. Raises OSError."""
        log.warning("%s is unusable and is moved to quarantine: %s", _printable(self._path), why.strerror)
        place = self._quarantine_path(self._path.name)
        try:
            os.rename(self._path, place)
        except PermissionError:  # a directory of another user can be renamed only within its parent directory
            os.rename(self._path, self._path.with_name(f"{self._quarantine.name}-{place.name}"))

    def _quarantine_path(self, name: str) -> Path:
        """Path in quarantine for an entry of this name; names begin with the time. Raises OSError."""
        quarantined_name = f"{time.time_ns():020}-{_safe_name(name)}"
        try:
            self._quarantine.mkdir(mode=0o700, parents=True, exist_ok=True)
        except FileExistsError:  # the quarantine itself is not a directory
            os.rename(self._quarantine, self._quarantine.with_name(f"{self._quarantine.name}-{quarantined_name}"))
            self._quarantine.mkdir(mode=0o700)
        return self._quarantine / quarantined_name

    def _remove_leftovers(self) -> None:
        """Remove temporary files of a daemon that was killed while writing."""
        start, end = _TEMPORARY
        for name in os.listdir(self._descriptor):
            if name.startswith(start) and name.endswith(end):
                with contextlib.suppress(OSError):  # a directory of that name; read_all moves it to quarantine
                    os.unlink(name, dir_fd=self._descriptor)


def _no_sync(descriptor: int) -> None:
    """Stand in for ``os.fsync`` where it would do nothing."""


def _read_checked(descriptor: int) -> bytes:
    # Other users may be able to create files here: never read devices, files of other users, or huge files.
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode):
        raise UnusableFile("it is not a regular file")
    if about.st_uid not in {0, os.geteuid()}:
        raise UnusableFile(f"it belongs to uid {about.st_uid}")
    if about.st_size > MAX_BYTES:
        raise UnusableFile(f"it is larger than {MAX_BYTES // 1024} KiB")
    with open(descriptor, "rb", closefd=False) as file:
        return file.read(MAX_BYTES)


def _remove_oldest(quarantine: Path) -> None:
    """Keep the newest entries of the quarantine; names begin with the time, so they sort by age."""
    for name in sorted(os.listdir(quarantine))[:-MAX_QUARANTINED]:
        path = quarantine / name
        if path.is_dir() and not path.is_symlink():
            # The module costs 0.4 MiB, and damaged files are rare.
            import shutil

            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _safe_name(name: str) -> str:
    return "".join(char if char in _SAFE else "_" for char in name)[:100]


def _printable(path: Path) -> str:
    """A path for the log, with control characters escaped: another user may have chosen the file name."""
    return repr(str(path))[1:-1]
