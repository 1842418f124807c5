"""The table of the benchmarks: which missed goals make a benchmark fail, and how they are printed."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from benchmarks.table import Row, exit_status, known_miss, show

REPOSITORY = Path(__file__).resolve().parents[2]


def row(value: float, goal: float, limit: float | None = None) -> Row:
    return Row("a lease", "1 ms", "two Pings", value, f"≤ {goal:g}", value <= goal, known_miss(value, limit))


@pytest.mark.parametrize(
    ("value", "limit", "status", "printed"),
    [
        (2.0, None, 0, "yes"),
        (2.3, None, 1, "NO"),
        (2.3, 4.5, 0, "NO (known ≤ 4.5)"),
        (4.5, 4.5, 0, "NO (known ≤ 4.5)"),
        (4.6, 4.5, 1, "NO"),
        (2.0, 4.5, 0, "yes"),
    ],
)
def test_a_goal_that_is_missed_fails_unless_the_miss_is_documented(
    value: float, limit: float | None, status: int, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row(value, 2.2, limit)]
    assert exit_status(rows) == status
    show(rows)
    out = capsys.readouterr().out
    assert re.split(r"\s*│\s*", out.splitlines()[3])[-2] == printed
    assert ("docs/performance.md" in out) is ("known" in printed)


def test_one_new_miss_fails_among_known_ones_and_rows_without_a_goal() -> None:
    known, met, without = row(2.3, 2.2, 4.5), row(1.0, 2.2), Row("memory", "1 MiB")
    assert exit_status([known, met, without]) == 0
    assert exit_status([known, row(2.3, 2.2), met, without]) == 1


def test_the_unit_of_a_documented_limit_is_printed() -> None:
    assert known_miss(43.2, 44.0, " MB") == "≤ 44 MB"


@pytest.mark.parametrize(("failing", "status"), [("", 0), ("speed", 2), ("gateway", 2), ("fleet", 2)])
def test_make_bench_runs_all_benchmarks_and_fails_if_one_fails(failing: str, status: int, tmp_path: Path) -> None:
    """Without the environment's ban of bytecode, which would let each start of the daemon compile its modules."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@ $PYTHONDONTWRITEBYTECODE"\ntest "$2" != "benchmarks.{failing}"\n')
    python.chmod(0o755)
    command = ("make", "--no-print-directory", "--old-file=setup", "bench", f"PYTHON_TOOLS={python}")
    environment = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MFLAGS"}}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["-m", "benchmarks.speed", "-m", "benchmarks.gateway", "-m", "benchmarks.fleet"]
    assert done.returncode == status
