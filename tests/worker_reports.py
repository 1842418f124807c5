"""Lines that a test process reports at the end of the run, also when pytest-xdist runs it as one of several workers.

A worker's stash and terminal are its own: what the controller is to print or to judge travels in ``workeroutput``.
"""

from __future__ import annotations

from typing import Any

import pytest

_LINES = "gpumand_lines"
_LEFT_BEHIND = "gpumand_left_behind"
reports = pytest.StashKey[dict[str, list[str]]]()


def add_line(config: pytest.Config, line: str) -> None:
    """Print a line at the end of the run."""
    _lists(config).setdefault(_LINES, []).append(line)


def add_left_behind(config: pytest.Config, processes: list[str]) -> None:
    """Report processes that tests started and did not end; one of them fails the run."""
    _lists(config).setdefault(_LEFT_BEHIND, []).extend(processes)


def lines(config: pytest.Config) -> list[str]:
    """The lines of this process and of all workers that have ended."""
    return _lists(config).get(_LINES, [])


def left_behind(config: pytest.Config) -> list[str]:
    """The processes that were left behind by this process and by all workers that have ended."""
    return _lists(config).get(_LEFT_BEHIND, [])


def take_worker(config: pytest.Config, output: dict[str, Any]) -> None:
    """Add what a worker reported when it ended."""
    for name, entries in output.get("gpumand", {}).items():
        _lists(config).setdefault(name, []).extend(entries)


def _lists(config: pytest.Config) -> dict[str, list[str]]:
    """Where this process keeps its lists: a worker in what it sends to the controller when it ends."""
    output = getattr(config, "workeroutput", None)
    if output is not None:
        lists: dict[str, list[str]] = output.setdefault("gpumand", {})
        return lists
    return config.stash.setdefault(reports, {})
