"""Settings of all tests: skips tests that cannot run here, prints the random seed, and fails on leftover processes."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests import leftovers, worker_reports
from tests.e2e.container import why_not

FOLDERS = {name: Path(__file__).with_name(name) for name in ("e2e", "real")}
KERNEL_REASON = "e2e: this kernel "
"""Begins the reasons of skips that depend on the kernel."""

E2E_REQUIRED = os.environ.get("GPUMAND_E2E") == "required"
SEED = int(os.environ.get("GPUMAND_SEED") or random.randrange(2**32))
os.environ["GPUMAND_SEED"] = str(SEED)  # the workers of pytest-xdist inherit the controller's seed


# On a machine that does other work, an example may take any time; a test that hangs is ended by its own time limit.
hypothesis.settings.register_profile("gpumand", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("gpumand")


def pytest_configure() -> None:
    leftovers.mark_this_run()
    restore_signal_handlers()


def restore_signal_handlers() -> None:
    """Reset ignored signals to their default action."""
    # A background job of a script ignores these signals, and child processes inherit that. Tests that send such a
    # signal to a child would then fail.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)


def pytest_report_header() -> str:
    return f"seed: {SEED} (repeat with GPUMAND_SEED={SEED})"


@pytest.fixture
def seed() -> int:
    """The seed of this run, for creating a random.Random in a test."""
    return SEED


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    no_driver = "" if Path("/dev/nvidiactl").exists() else "needs an NVIDIA driver"
    reasons = {"e2e": why_not(), "real": why_not(), "gpu": no_driver}
    for item in items:
        for name, folder in FOLDERS.items():
            if item.path.is_relative_to(folder):
                item.add_marker(name)
        for marker, reason in reasons.items():
            if reason and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=f"{marker}: {reason}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report a skipped e2e test as failed if e2e tests are required (GPUMAND_E2E=required).

    What only another kernel could offer stays a skip, which the summary lists: no package provides it.
    """
    report = yield
    if E2E_REQUIRED and report.skipped and item.get_closest_marker("e2e") and not item.get_closest_marker("gpu"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if KERNEL_REASON in reason:
            return report
        report.outcome = "failed"
        report.longrepr = f"e2e tests are required here, and this one was skipped. {reason}"
    return report


@pytest.hookimpl(trylast=True)  # after the last fixtures were torn down
def pytest_sessionfinish(session: pytest.Session) -> None:
    worker_reports.add_left_behind(session.config, leftovers.collect())
    if worker_reports.left_behind(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's; the controller hears of a worker's end here
def pytest_testnodedown(node: Any) -> None:
    worker_reports.take_worker(node.config, getattr(node, "workeroutput", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in worker_reports.lines(config):
        terminalreporter.write_line(line)
    for process in worker_reports.left_behind(config):
        terminalreporter.write_line(f"left running by the tests and killed: {process}", red=True)
