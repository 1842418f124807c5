"""Whose process is it: uids and names of users, for the lines that say who holds VRAM."""

from __future__ import annotations

import pwd
import re
from dataclasses import dataclass

from gpumand.vram.process import owner_uid, short_name

MOST_USERS = 256

_USER_MANAGER = re.compile(r"user@([0-9]{1,10})\.service")


@dataclass(frozen=True, slots=True)
class ProcessOwner:
    """A user; ``uid`` None where it cannot be told, ``name`` "" where there is none."""

    uid: int | None = None
    name: str = ""


NOBODY = ProcessOwner()


class ProcessOwners:
    """Who owns processes. Blocks (a directory service may be asked for a name): for a thread."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}

    def owner_of(self, pid: int, unit: str) -> ProcessOwner:
        """The owner of a process: by /proc, else by the unit that all of a user's session run in."""
        uid = owner_uid(pid)
        if uid is None and (match := _USER_MANAGER.fullmatch(unit)):
            uid = int(match[1])
        return NOBODY if uid is None else ProcessOwner(uid, self._name(uid))

    def _name(self, uid: int) -> str:
        if uid not in self._names:
            if len(self._names) >= MOST_USERS:
                self._names.clear()
            self._names[uid] = _looked_up(uid)
        return self._names[uid]


def _looked_up(uid: int) -> str:
    try:
        return short_name(pwd.getpwuid(uid).pw_name)
    except (KeyError, OverflowError):
        return ""
