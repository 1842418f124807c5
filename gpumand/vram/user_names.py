"""Finds uid and user name of processes, for output that shows which user holds VRAM, and names of users by uid."""

from __future__ import annotations

import pwd
import re
from dataclasses import dataclass

from gpumand.vram.process import owner_uid, short_name

MAX_CACHED_NAMES = 256

_USER_MANAGER = re.compile(r"user@([0-9]{1,10})\.service")


@dataclass(frozen=True, slots=True)
class ProcessOwner:
    """The user of a process; ``uid`` is None if unknown, ``name`` is "" if unknown."""

    uid: int | None = None
    name: str = ""


UNKNOWN_OWNER = ProcessOwner()


class UserNameCache:
    """Looks up user names and caches them.

    Call it in a thread: it blocks, because a directory service may have to be queried for a name.
    """

    def __init__(self) -> None:
        self._names: dict[int, str] = {}

    def name_of(self, uid: int) -> str:
        """Return the name of a user, made printable and limited to 64 characters; "" if there is no such user."""
        if uid not in self._names:
            if len(self._names) >= MAX_CACHED_NAMES:
                self._names.clear()
            self._names[uid] = _look_up_name(uid)
        return self._names[uid]

    def cached(self, uid: int) -> str:
        """Return the name of a user that was looked up before, without blocking; "" if it was not."""
        return self._names.get(uid, "")


class ProcessOwners:
    """Finds the owners of processes. Call it in a thread: it blocks like ``UserNameCache``."""

    def __init__(self) -> None:
        self._names = UserNameCache()

    def owner_of(self, pid: int, unit: str) -> ProcessOwner:
        """Return the owner of a process: from /proc, or else from its unit, if that is a user manager."""
        uid = owner_uid(pid)
        if uid is None and (match := _USER_MANAGER.fullmatch(unit)):
            uid = int(match[1])
        return UNKNOWN_OWNER if uid is None else ProcessOwner(uid, self._names.name_of(uid))


def _look_up_name(uid: int) -> str:
    try:
        return short_name(pwd.getpwuid(uid).pw_name)
    except (KeyError, OverflowError):
        return ""
