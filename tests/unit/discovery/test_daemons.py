"""Finding other gpumand daemons among the processes of a host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpumand.discovery.daemons import OtherDaemon, other_daemons

UNKNOWN_UID = 3_999_999_999
OWN_PID = 1


def add_process(proc: Path, pid: int, *words: str, uid: int = UNKNOWN_UID, pids: str = "") -> None:
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
def test_the_system_daemon_is_found_for_every_command_line(tmp_path: Path, words: tuple[str, ...]) -> None:
    add_process(tmp_path, 77, *words)
    assert other_daemons(OWN_PID, tmp_path) == (OtherDaemon(77),)


def test_a_user_daemon_has_the_name_of_its_user(tmp_path: Path) -> None:
    add_process(tmp_path, 77, "/usr/bin/python3", "/usr/bin/gpumand", "--user", uid=0)
    add_process(tmp_path, 78, "/usr/bin/python3", "/usr/bin/gpumand", "--user")
    assert other_daemons(OWN_PID, tmp_path) == (OtherDaemon(77, "root"), OtherDaemon(78, str(UNKNOWN_UID)))
    assert str(OtherDaemon(77, "root")) == "the daemon of user root, pid 77"
    assert str(OtherDaemon(77)) == "the system daemon, pid 77"


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
def test_test_instances_and_other_programs_are_ignored(tmp_path: Path, words: tuple[str, ...]) -> None:
    add_process(tmp_path, 77, *words)
    assert other_daemons(OWN_PID, tmp_path) == ()


def test_own_containerised_and_ended_processes_are_ignored(tmp_path: Path) -> None:
    add_process(tmp_path, OWN_PID, "gpumand")
    add_process(tmp_path, 77, "gpumand", pids="77\t12")
    (tmp_path / "78").mkdir()
    (tmp_path / "self").mkdir()
    assert other_daemons(OWN_PID, tmp_path) == ()


def test_scanning_this_host_works() -> None:
    assert os.getpid() not in {one.pid for one in other_daemons(os.getpid())}
