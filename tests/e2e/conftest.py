"""One booted machine for all e2e tests, and its journal beside every failure."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator

import pytest

from tests.e2e.machine import Machine

booted = pytest.StashKey[Machine]()


@pytest.fixture(scope="session")
def machine(pytestconfig: pytest.Config) -> Iterator[Machine]:
    """A booted systemd with gpumand's unit, bus policy and activation file installed."""
    one = Machine()
    one.boot()
    pytestconfig.stash[booted] = one
    yield one
    one.kill()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    one = item.config.stash.get(booted, None)
    if report.failed and one is not None and one.container.alive:
        since_usec = int((call.start - 1) * 1_000_000)
        report.sections.append(("journal of the machine", one.journal(since_usec=since_usec)))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    one = config.stash.get(booted, None)
    if one is not None:
        terminalreporter.write_line(f"e2e: booted in {one.boot_sec:.2f} s; ended at {time.strftime('%X')}")
