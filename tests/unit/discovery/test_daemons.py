"""Which processes are daemons of ours that reckon for themselves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpumand.discovery.daemons import OtherDaemon, other_daemons

NOBODY = 3_999_999_999
OWN = 1


def process(proc: Path, pid: int, *words: str, uid: int = NOBODY, pids: str = "") -> None:
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "cmdline").write_bytes("\0".join((*words, "")).encode())
    (folder / "status").write_text(f"Name:\tx\nUid:\t{uid}\t0\t0\t0\nNSpid:\t{pids or pid}\n")


@pytest.mark.parametrize(
    "words",
    [
        ("/usr/bin/python3", "/usr/bin/gpumand"),
        ("/usr/bin/python3.11", "-I", "/usr/bin/gpumand", "--config", "/etc/x.toml"),
        ("python3", "-m", "gpumand"),
        ("/usr/bin/gpumand",),
    ],
)
def test_the_system_s_is_found_however_it_was_started(tmp_path: Path, words: tuple[str, ...]) -> None:
    process(tmp_path, 77, *words)
    assert other_daemons(OWN, tmp_path) == (OtherDaemon(77),)


def test_a_user_s_is_told_by_the_user(tmp_path: Path) -> None:
    process(tmp_path, 77, "/usr/bin/python3", "/usr/bin/gpumand", "--user", uid=0)
    process(tmp_path, 78, "/usr/bin/python3", "/usr/bin/gpumand", "--user")
    assert other_daemons(OWN, tmp_path) == (OtherDaemon(77, "root"), OtherDaemon(78, str(NOBODY)))
    assert str(OtherDaemon(77, "root")) == "that of the user root, pid 77"
    assert str(OtherDaemon(77)) == "the system's, pid 77"


@pytest.mark.parametrize(
    "words",
    [
        ("/usr/bin/python3", "/usr/bin/gpumand", "--bus-address", "unix:path=/x"),
        ("/usr/bin/python3", "/usr/bin/gpumand", "--bus-address=unix:path=/x"),
        ("/usr/bin/python3", "/usr/bin/gpumanctl"),
        ("/usr/bin/python3", "-m", "gpumand.testing.consumer"),
        ("vim", "gpumand"),
        ("python3", "-c", "gpumand"),
        ("python3",),
        (),
    ],
)
def test_trials_and_other_programs_are_none(tmp_path: Path, words: tuple[str, ...]) -> None:
    process(tmp_path, 77, *words)
    assert other_daemons(OWN, tmp_path) == ()


def test_neither_ourselves_nor_one_in_a_container_nor_one_that_has_just_ended(tmp_path: Path) -> None:
    process(tmp_path, OWN, "gpumand")
    process(tmp_path, 77, "gpumand", pids="77\t12")
    (tmp_path / "78").mkdir()
    (tmp_path / "self").mkdir()
    assert other_daemons(OWN, tmp_path) == ()


def test_this_host_can_be_searched() -> None:
    assert os.getpid() not in {one.pid for one in other_daemons(os.getpid())}
