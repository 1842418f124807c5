"""Reads and replaces settings files of a user. What is not plainly a file of this user is refused with the reason."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path

from gpumand.cli.connect.marked_lines import CannotEdit
from gpumand.config.whole_file import write_whole

MAX_BYTES = 1 << 20
NEW_FILE_MODE = 0o600


def read_text(path: Path) -> str | None:
    """The content of a file; None if it does not exist.

    Raises:
        CannotEdit: it is a link, belongs to another user, is too large, or is no text.
    """
    if path.is_symlink():
        target = os.readlink(path)
        raise CannotEdit(f"it is a symbolic link to {target}, and gpumanctl does not change what is behind a link")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY)
    except FileNotFoundError:
        _check_folder(path.parent)
        return None
    except OSError as error:
        raise CannotEdit(f"it cannot be read: {error.strerror}") from None
    try:
        _check_file(os.fstat(descriptor))
        with open(descriptor, "rb", closefd=False) as stream:
            content = stream.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    return _decoded(content)


def write_text(path: Path, text: str) -> list[Path]:
    """Replace a file as a whole, with the mode and the group that it has. Raises CannotEdit.

    Returns:
        The folders that were created, the outermost first.
    """
    created: list[Path] = []
    try:
        created = _create_folders(path.parent)
        _replace(path, text, os.lstat(path) if path.exists() else None)
    except OSError as error:
        remove_folders(created)
        raise CannotEdit(f"it cannot be written: {error.strerror}") from None
    return created


def is_readable_by_others(path: Path) -> bool:
    """Whether users without a group in common can read a file; False if there is none."""
    try:
        folders = [one.stat().st_mode for one in path.parents]
        return bool(path.stat().st_mode & stat.S_IROTH) and all(mode & stat.S_IXOTH for mode in folders)
    except OSError:
        return False


def remove(path: Path) -> None:
    """Remove a file. Raises CannotEdit."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise CannotEdit(f"it cannot be removed: {error.strerror}") from None


def remove_folders(folders: list[Path]) -> None:
    """Remove folders, as far as they are empty."""
    for one in reversed(folders):
        with suppress(OSError):
            one.rmdir()


def _check_file(info: os.stat_result) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise CannotEdit("it is not a regular file")
    if info.st_uid != os.geteuid():
        raise CannotEdit(f"it belongs to {_user_name(info.st_uid)}, so that this user has to run the command")
    if info.st_nlink > 1:
        raise CannotEdit("it has a second name (a hard link), which would keep the old content")
    if not info.st_mode & stat.S_IWUSR:
        raise CannotEdit("it is read-only")


def _check_folder(folder: Path) -> None:
    """Raise CannotEdit unless the nearest folder that exists belongs to this user."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        info = folder.stat()
    except OSError as error:
        raise CannotEdit(f"its folder cannot be read: {error.strerror}") from None
    if not stat.S_ISDIR(info.st_mode):
        raise CannotEdit(f"{folder} is not a folder")
    if info.st_uid != os.geteuid():
        raise CannotEdit(f"its folder {folder} belongs to {_user_name(info.st_uid)}")


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"the user {uid}"


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _decoded(content: bytes) -> str:
    if len(content) > MAX_BYTES:
        raise CannotEdit(f"it is larger than {MAX_BYTES >> 10} KiB")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise CannotEdit("it is not UTF-8") from None
    if "\0" in text:
        raise CannotEdit("it contains a zero byte")
    return text


def _create_folders(folder: Path) -> list[Path]:
    missing: list[Path] = []
    while not folder.exists():
        missing.insert(0, folder)
        folder = folder.parent
    for one in missing:
        one.mkdir(mode=0o700)
    return missing


def _replace(path: Path, text: str, before: os.stat_result | None) -> None:
    def set_permissions(descriptor: int) -> None:
        if before is not None:
            _keep_group(descriptor, before.st_gid)
        os.fchmod(descriptor, NEW_FILE_MODE if before is None else stat.S_IMODE(before.st_mode))

    write_whole(path, text.encode(), set_permissions)


def _keep_group(descriptor: int, gid: int) -> None:
    """Give a new file the group of the old one, which may be that of a service. Raises CannotEdit, OSError."""
    if os.fstat(descriptor).st_gid == gid:
        return
    try:
        os.fchown(descriptor, -1, gid)
    except PermissionError:
        raise CannotEdit(f"its group is {_group_name(gid)}, which this user cannot give to the new file") from None
