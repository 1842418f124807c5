"""Whether root may run this installation: another user who can change it would be root with the next start."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

HIDDEN = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))
"""Folders that the hardening of the services hides from them (ProtectHome=, PrivateTmp=)."""

MAX_ENTRIES = 100_000
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def why_not_trusted(folders: Iterable[Path]) -> str:
    """Why the system's services may not run what is in these folders, in one line; "" if they may. Blocks.

    Args:
        folders: the interpreter, and the folders of its programs and packages. Everything in them, and each folder on
            the way there, must belong to root and be writable by root alone.
    """
    for folder in dict.fromkeys(folders):
        # As it is named and as it resolves: a link in a folder of another user could be changed too.
        for path in (folder, folder.resolve()):
            hidden = next((one for one in HIDDEN if path.is_relative_to(one)), None)
            if hidden is not None:
                return f"{path} is below {hidden}, which is hidden from the services"
        if changeable := _changeable(folder):
            return changeable
    return ""


def _changeable(folder: Path) -> str:
    parents = {*folder.absolute().parents, *folder.resolve().parents}
    for count, path in enumerate((*parents, folder, folder.resolve(), *folder.resolve().rglob("*"))):
        if count > MAX_ENTRIES:
            return f"{folder} has more than {MAX_ENTRIES} files, too many to check their owners"
        info = os.lstat(path)
        is_link = stat.S_ISLNK(info.st_mode)
        is_sticky = stat.S_ISDIR(info.st_mode) and bool(info.st_mode & stat.S_ISVTX)
        if info.st_uid != 0 or (info.st_mode & OTHERS_WRITE and not is_link and not (is_sticky and path in parents)):
            return f"{path} can be changed by users other than root"
    return ""
