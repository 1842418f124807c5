from __future__ import annotations

import asyncio
import sys
import time

import pytest

from gpumand.service_manager import journal


def printing(script: str) -> list[str]:
    return [sys.executable, "-c", script]


async def test_last_lines_are_sanitized() -> None:
    script = (
        "import sys; sys.stdout.buffer.write(b'1\\n2\\n\\n3\\x1b[31m\\xff\\n' + b'x' * 999 + b'\\n5\\n   \\n6\\n7\\n')"
    )
    assert await journal.last_lines(printing(script)) == ("3 [31m\ufffd", "x" * journal.MAX_LINE_CHARS, "5", "6", "7")


async def test_hanging_command_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "TIMEOUT_SEC", 0.2)
    began = time.monotonic()
    assert await journal.last_lines(["sleep", "1000"]) == ()
    assert time.monotonic() - began < 60


async def test_endless_output_is_cut_off() -> None:
    async with asyncio.timeout(30):
        lines = await journal.last_lines(["yes", "y" * 100])
    assert len(lines) == journal.MAX_LINES
    assert set(lines[:-1]) == {"y" * 100}


@pytest.mark.parametrize("command", [["/nowhere/journalctl"], ["false"], ["true"]])
async def test_failing_command_yields_no_lines(command: list[str]) -> None:
    assert await journal.last_lines(command) == ()


def test_command_selects_one_run_of_one_unit() -> None:
    system = journal.journalctl_command("a.service", "cafe", user=False)
    assert system[:2] == ["journalctl", "--quiet"]
    assert system[-3:] == ["--unit", "a.service", "_SYSTEMD_INVOCATION_ID=cafe"]
    assert journal.journalctl_command("a.service", "", user=True)[-3:] == ["--user-unit", "a.service", "--boot"]
    late = journal.journalctl_command("a.service", "", user=False, since_usec=1_700_000_000_250_000)
    assert late[-3:] == ["--unit", "a.service", "--since=@1700000000.250000"]
