"""One lab for each test, so that no fault of one test is left for the next, and a summary of what was measured."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from tests.fleet.lab import Lab, running_lab

LINES = pytest.StashKey[list[str]]()

Note = Callable[[str, float], None]
"""Notes a measurement, in seconds."""


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """Three hosts, each with a member of etcd."""
    async with running_lab() as started:
        yield started


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Notes a measurement for the summary at the end of the run."""
    lines = request.config.stash.setdefault(LINES, [])

    def add(what: str, seconds: float) -> None:
        lines.append(f"{seconds:8.2f} s  {what}")

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the measurements."""
    for line in config.stash.get(LINES, []):
        terminalreporter.write_line(line)
