"""Writes files that have secrets: never over an existing one, or with a backup of it where that was asked for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from gpumand.cli.errors import ExitCode, Failure
from gpumand.config.whole_file import write_whole

SECRET, PUBLIC, FOR_GROUP = 0o600, 0o644, 0o640


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to write.

    Attributes:
        path: where it belongs.
        content: its content.
        mode: its permissions.
        group: the group that gets it, if there is such a group; "" = that of root.
    """

    path: Path
    content: bytes = field(repr=False)
    mode: int = PUBLIC
    group: str = ""


def write_new(files: Sequence[NewFile]) -> None:
    """Write files that do not exist yet. Raises Failure, also where one has appeared meanwhile."""
    for one in files:
        try:
            _make_folder(one)
            _write(one, os.link)  # fails if the file exists
        except FileExistsError:
            raise Failure(ExitCode.FAILURE, f"{one.path} exists already, and is not overwritten") from None
        except OSError as error:
            raise _not_written(one.path, error) from None


def write_again(file: NewFile) -> None:
    """Write a file that gpumanctl alone maintains, also over an existing one. Raises Failure."""
    try:
        _make_folder(file)
        _write(file, os.replace)
    except OSError as error:
        raise _not_written(file.path, error) from None


def back_up(paths: Sequence[Path], now: datetime | None = None) -> list[Path]:
    """Rename existing files, so that new ones can be written; return their new names. Raises Failure."""
    stamp = (now or datetime.now()).strftime("%Y%m%d-%H%M%S")  # noqa: DTZ005 - people read it in local time
    copies = []
    for path in (one for one in paths if one.exists()):
        copy = path.with_name(f"{path.name}.backup-{stamp}")
        try:
            # A link fails if the name is taken; a rename would replace it.
            os.link(path, copy)
            path.unlink()
        except OSError as error:
            raise _not_written(copy, error) from None
        copies.append(copy)
    return copies


def give_to_group(paths: Sequence[Path], group: str) -> bool:
    """Give files and folders to a group, as far as this user may; False if there is no such group."""
    try:
        for path in paths:
            with suppress(PermissionError):
                shutil.chown(path, group=group)
    except LookupError:
        return False
    return True


def read_secret(path: Path) -> str:
    """Read a file with one line. Raises Failure."""
    return read_bytes(path).decode("ascii", "replace").strip()


def read_bytes(path: Path) -> bytes:
    """Read a small file. Raises Failure."""
    try:
        with path.open("rb") as file:
            return file.read(1 << 16)
    except OSError as error:
        raise Failure(ExitCode.FAILURE, f"{path} cannot be read: {error.strerror}. Use sudo") from None


def _make_folder(file: NewFile) -> None:
    folder = file.path.parent
    is_shared = bool(file.group)
    if not folder.exists():
        folder.mkdir(0o755 if folder.name == "gpumand" else 0o750 if is_shared else 0o700, parents=True)
        _give_to(folder, file.group)


def _write(file: NewFile, put: Callable[[str, Path], None]) -> None:
    def set_permissions(descriptor: int) -> None:
        _give_to(descriptor, file.group)
        os.fchmod(descriptor, file.mode)

    write_whole(file.path, file.content, set_permissions, put)


def _give_to(place: Path | int, group: str) -> None:
    if group:
        with suppress(LookupError, PermissionError):
            shutil.chown(place, group=group)


def _not_written(path: Path, error: OSError) -> Failure:
    return Failure(ExitCode.FAILURE, f"{path} cannot be written: {error.strerror}. Use sudo")
