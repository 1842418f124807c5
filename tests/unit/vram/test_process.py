"""Facts about processes from /proc."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from gpumand.vram import process

ME = os.getpid()
UNUSED_PID = 1 << 30


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("/usr/bin/python3", "python3"),
        ("python3", "python3"),
        ("/opt/a b/c d", "c d"),
        ("/", ""),
        ("", ""),
        ("dir/", "dir"),
        ("a\nb\x1b[31m", "a?b?[31m"),
        ("x" * 100, "x" * 64),
        ("\ud800", "?"),
    ],
)
def test_short_name_is_printable_and_bounded(given: str, expected: str) -> None:
    assert process.short_name(given) == expected


def test_facts_of_a_living_process() -> None:
    assert process.command_name(ME) == Path("/proc/self/comm").read_text().strip()
    assert not process.is_dead(ME)
    assert process.start_ticks(ME) is not None


@pytest.mark.parametrize("pid", [UNUSED_PID, 4_294_967_295, 9_999_999_999])
def test_facts_of_a_missing_process_are_unknown(pid: int) -> None:
    assert process.command_name(pid) == ""
    assert process.start_ticks(pid) is None
    assert process.is_dead(pid)
    assert not process.started_after(pid, 0)


def test_zombie_is_dead() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process.is_dead(child.pid)
    child.wait()


def test_hidden_process_is_alive_if_a_signal_could_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "stat_fields", lambda _: [])
    assert not process.is_dead(ME)

    def refuse(_pid: int, _signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert not process.is_dead(ME)


def test_start_time_is_between_boot_and_now() -> None:
    assert not process.started_after(ME, time.time())
    assert process.started_after(ME, 0)


def test_command_with_brackets_and_blanks_is_parsed(tmp_path: Path) -> None:
    program = tmp_path / "a) Z 1 (b"
    program.symlink_to("/bin/sleep")
    child = subprocess.Popen([program, "60"])
    try:
        assert not process.is_dead(child.pid)
        assert process.start_ticks(child.pid) is not None
    finally:
        child.kill()
        child.wait()
    assert process.is_dead(child.pid)
