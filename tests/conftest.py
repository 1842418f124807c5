"""What holds for all tests: which can run here, a seed that is printed, and no process left behind."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from tests import leftovers
from tests.e2e.container import why_not

E2E_FOLDER = Path(__file__).with_name("e2e")
E2E_REQUIRED = os.environ.get("GPUMAND_E2E") == "required"
SEED = int(os.environ.get("GPUMAND_SEED") or random.randrange(2**32))
left_behind = pytest.StashKey[list[str]]()


def pytest_configure() -> None:
    leftovers.mark_this_run()
    heed_signals()


def heed_signals() -> None:
    """A script's background job ignores these, and so would all that is started here, also where a test sends them."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)


def pytest_report_header() -> str:
    return f"seed: {SEED} (repeat with GPUMAND_SEED={SEED})"


@pytest.fixture
def seed() -> int:
    """The seed of this run, for a random.Random of the test's own."""
    return SEED


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reasons = {"e2e": why_not(), "gpu": "" if Path("/dev/nvidiactl").exists() else "needs an NVIDIA driver"}
    for item in items:
        if item.path.is_relative_to(E2E_FOLDER):
            item.add_marker("e2e")
        for marker, reason in reasons.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=f"{marker}: {reason}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where e2e tests are required, a skipped one has failed."""
    report = yield
    if E2E_REQUIRED and report.skipped and item.get_closest_marker("e2e") and not item.get_closest_marker("gpu"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"e2e tests are required here, and this one was skipped. {reason}"
    return report


@pytest.hookimpl(trylast=True)  # after the last fixtures were torn down
def pytest_sessionfinish(session: pytest.Session) -> None:
    session.config.stash[left_behind] = leftovers.collect()
    if session.config.stash[left_behind]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for process in config.stash.get(left_behind, []):
        terminalreporter.write_line(f"left behind by the tests, and killed: {process}", red=True)
