"""User names from a dictionary, for error messages of the bus."""

from __future__ import annotations

from collections.abc import Mapping

USERS = {0: "root", 990: "_gpumand", 1000: "alice", 1001: "bob"}


class ScriptedUserNames:
    """Implements ``UserNames`` with fixed names."""

    def __init__(self, names: Mapping[int, str] = USERS) -> None:
        self._names = names

    async def name_of(self, uid: int) -> str:
        return self._names.get(uid, "")
