"""gpumanctl where its output cannot be written: a full disk, and streams that the caller has closed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from gpumand.cli.errors import interpret
from gpumand.cli.options import GlobalOptions

COMMANDS = ("--help", "preset list", "preset list --json", "version", "config-check --help")


def run(words: str, redirection: str) -> subprocess.CompletedProcess[str]:
    line = f'exec "$@" {redirection}'
    command = ["sh", "-c", line, "sh", sys.executable, "-m", "gpumand.cli", *words.split()]
    environ = os.environ | {"GPUMAND_BUS_ADDRESS": "unix:path=/nonexistent"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environ)


@pytest.mark.parametrize("words", COMMANDS)
def test_a_full_disk_is_reported_in_one_line(words: str) -> None:
    done = run(words, ">/dev/full")
    assert (done.returncode, done.stderr) == (1, "gpumanctl: cannot write the output: No space left on device\n")


@pytest.mark.parametrize("words", COMMANDS)
@pytest.mark.parametrize("redirection", [">&-", "<&-", "<&- >&-", ">&- 2>&-"])
def test_a_closed_stream_is_no_error(words: str, redirection: str) -> None:
    done = run(words, redirection)
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) is (redirection == "<&-")


@pytest.mark.parametrize(("number", "filename"), [(errno.ENOENT, None), (errno.ENOSPC, "/var/x")])
def test_other_errors_are_not_taken_for_errors_of_the_output(number: int, filename: str | None) -> None:
    assert interpret(OSError(number, "text", filename), GlobalOptions()) is None
