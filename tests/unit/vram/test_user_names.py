"""Users of processes that hold VRAM."""

from __future__ import annotations

import os
import pwd

import pytest

from gpumand.vram import user_names
from gpumand.vram.process import owner_uid
from gpumand.vram.user_names import UNKNOWN_OWNER, ProcessOwner, ProcessOwners

UNUSED_PID = 2**22 + 1
"""Above the largest pid of the kernel."""


def test_own_process_has_the_current_user() -> None:
    uid = os.getuid()

    assert owner_uid(os.getpid()) == uid
    assert ProcessOwners().owner_of(os.getpid(), "") == ProcessOwner(uid, pwd.getpwuid(uid).pw_name)


def test_owner_of_an_invisible_process_is_unknown() -> None:
    assert owner_uid(UNUSED_PID) is None
    assert ProcessOwners().owner_of(UNUSED_PID, "session-2.scope") == UNKNOWN_OWNER


def test_invisible_process_of_a_user_manager_belongs_to_its_user() -> None:
    assert ProcessOwners().owner_of(UNUSED_PID, "user@0.service") == ProcessOwner(0, pwd.getpwuid(0).pw_name)
    assert ProcessOwners().owner_of(UNUSED_PID, "user@4294967200.service") == ProcessOwner(4294967200, "")
    assert ProcessOwners().owner_of(UNUSED_PID, "user@99999999999.service") == UNKNOWN_OWNER


def test_user_name_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    queried: list[int] = []

    def getpwuid(uid: int) -> pwd.struct_passwd:
        queried.append(uid)
        return pwd.struct_passwd(("eve\x1b", "x", uid, 0, "", "/", "/bin/sh"))

    monkeypatch.setattr(user_names.pwd, "getpwuid", getpwuid)  # type: ignore[attr-defined]  # a module's own import
    owners = ProcessOwners()

    assert [owners.owner_of(UNUSED_PID, f"user@{uid}.service").name for uid in (7, 7, 8)] == ["eve?"] * 3
    assert queried == [7, 8]
