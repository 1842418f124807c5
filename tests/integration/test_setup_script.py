"""``scripts/setup``: it shows what it does and how far it is, on a terminal and in a log."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from pathlib import Path

import pyte
import pytest

from tests.integration.cli.ctl import Ctl, Screen

ROOT = Path(__file__).resolve().parents[2]
LOCKED = [f"library{number}" for number in range(8)]
PYTHON = f"""#!/bin/bash
case "$*" in
*"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
-V) echo Python 3.12.1 ;;
-VV) echo Python 3.12.1 with this compiler ;;
*--requirement*)
    for name in {" ".join(LOCKED)}; do
        [ "$name" != "${{FAULTY:-}}" ] || {{ echo "ERROR: no version of $name fits"; exit 1; }}
        case "$name" in
        library1) echo "Processing /somewhere/$name-1.whl" ;;
        library2) echo "Requirement already satisfied: $name==1" ;;
        *) echo "Collecting $name==1" && echo "  Downloading $name" ;;
        esac
    done
    echo "Installing collected packages: {", ".join(LOCKED)}" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the script, and a Python that installs nothing."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/setup", tmp_path / "scripts/setup")
    shutil.copy(ROOT / "Makefile", tmp_path / "Makefile")
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "requirements.lock").write_text("".join(f"{name}==1\n" for name in LOCKED))
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)
    return tmp_path


def run(checkout: Path, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    given = {"PYTHON": str(checkout / "python"), "PATH": "/usr/bin:/bin", **environ}
    return subprocess.run(
        [checkout / "scripts/setup", *options], capture_output=True, text=True, env=given, check=False
    )


def test_log_lists_the_steps_and_each_quarter_of_the_packages(checkout: Path) -> None:
    done = run(checkout)
    assert (done.returncode, done.stdout) == (0, "")
    lines = [re.sub(r"after \d+ s", "after N s", line) for line in done.stderr.splitlines()]
    assert lines == [
        "setup: [1/3] creating .venv with Python 3.12.1",
        "setup: [2/3] installing the 8 packages of requirements.lock into it",
        "setup:       2 of 8 packages",
        "setup:       4 of 8 packages",
        "setup:       6 of 8 packages",
        "setup:       8 of 8 packages",
        "setup:       unpacking them",
        "setup: [3/3] installing gpumand into it, from this folder",
        "setup: ready after N s: everything is in .venv",
    ]


async def test_terminal_shows_one_line_that_counts(checkout: Path) -> None:
    screen = await Screen.start(Ctl(""), argv=(str(checkout / "scripts/setup"),), PYTHON=str(checkout / "python"))
    assert await screen.end() == 0
    assert [f"{number} of 8 packages" in screen.text for number in range(1, 9)] == [True] * 8
    terminal = pyte.Screen(80, 24)
    pyte.ByteStream(terminal).feed(screen.seen)
    assert not any("of 8 packages" in line for line in terminal.display), "the count is removed at its end"
    assert sum("[" in line for line in terminal.display) == 3


def test_second_run_does_nothing_and_says_so_if_asked(checkout: Path) -> None:
    run(checkout)
    assert run(checkout).stderr == ""
    assert run(checkout, "--report").stderr == "setup: nothing to do: .venv is complete\n"


def test_failed_step_prints_the_whole_output_and_is_repeated(checkout: Path) -> None:
    failed = run(checkout, FAULTY="library5")
    assert failed.returncode != 0
    assert "  Downloading library4\nERROR: no version of library5 fits\n" in failed.stderr
    assert "ready after" not in failed.stderr
    assert "ready after" in run(checkout).stderr


def test_unknown_option_is_refused(checkout: Path) -> None:
    refused = run(checkout, "--test")
    assert refused.returncode == 1
    assert refused.stderr == "setup: unknown option --test. See the first lines of scripts/setup.\n"


@pytest.mark.parametrize(("target", "reported"), [("setup", True), ("demo", False)])
async def test_only_make_setup_reports_that_nothing_is_left_to_do(checkout: Path, target: str, reported: bool) -> None:
    await asyncio.to_thread(run, checkout)
    (checkout / ".venv/bin/gpumanctl").symlink_to("/bin/true")
    environ = os.environ | {"PYTHON": str(checkout / "python")}
    make = await asyncio.create_subprocess_exec(
        *("make", "--no-print-directory", target), cwd=checkout, env=environ, stderr=asyncio.subprocess.PIPE
    )
    _, said = await make.communicate()
    assert make.returncode == 0
    assert ("nothing to do" in said.decode()) is reported
