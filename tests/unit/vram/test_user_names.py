"""Whose processes hold VRAM."""

from __future__ import annotations

import os
import pwd

import pytest

from gpumand.vram import user_names
from gpumand.vram.process import owner_uid
from gpumand.vram.user_names import NOBODY, ProcessOwner, ProcessOwners

GONE = 2**22 + 1
"""No kernel gives so large a pid."""


def test_our_own_process_is_ours() -> None:
    uid = os.getuid()

    assert owner_uid(os.getpid()) == uid
    assert ProcessOwners().owner_of(os.getpid(), "") == ProcessOwner(uid, pwd.getpwuid(uid).pw_name)


def test_a_process_that_is_not_seen_is_nobodys() -> None:
    assert owner_uid(GONE) is None
    assert ProcessOwners().owner_of(GONE, "session-2.scope") == NOBODY


def test_what_is_not_seen_belongs_to_the_user_whose_manager_runs_it() -> None:
    assert ProcessOwners().owner_of(GONE, "user@0.service") == ProcessOwner(0, pwd.getpwuid(0).pw_name)
    assert ProcessOwners().owner_of(GONE, "user@4294967200.service") == ProcessOwner(4294967200, "")
    assert ProcessOwners().owner_of(GONE, "user@99999999999.service") == NOBODY


def test_a_name_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def getpwuid(uid: int) -> pwd.struct_passwd:
        asked.append(uid)
        return pwd.struct_passwd(("eve\x1b", "x", uid, 0, "", "/", "/bin/sh"))

    monkeypatch.setattr(user_names.pwd, "getpwuid", getpwuid)  # type: ignore[attr-defined]  # a module's own import
    everybody = ProcessOwners()

    assert [everybody.owner_of(GONE, f"user@{uid}.service").name for uid in (7, 7, 8)] == ["eve?"] * 3
    assert asked == [7, 8]
