"""Booted machines for e2e tests, and their journal beside every failure."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from tests.e2e.client import Client
from tests.e2e.host import Host
from tests.e2e.installation import install
from tests.e2e.machine import Machine

in_use = pytest.StashKey[list[Machine]]()
boots = pytest.StashKey[list[float]]()


def _booted(config: pytest.Config) -> Iterator[Machine]:
    one = Machine()
    one.boot()
    config.stash.setdefault(boots, []).append(one.boot_sec)
    config.stash.setdefault(in_use, []).append(one)
    try:
        install(one)
        yield one
    finally:
        config.stash[in_use].remove(one)
        one.kill()


@pytest.fixture(scope="session")
def machine(pytestconfig: pytest.Config) -> Iterator[Machine]:
    """A booted systemd with gpumand's unit, bus policy and activation file installed; shared by all tests."""
    yield from _booted(pytestconfig)


@pytest.fixture
def own_machine(pytestconfig: pytest.Config) -> Iterator[Machine]:
    """The same, for one test that does to it what others could not bear."""
    yield from _booted(pytestconfig)


@pytest.fixture
def host(machine: Machine) -> Iterator[Host]:
    """A host without consumers, whose daemon is not started yet."""
    one = Host(machine, Client(machine))
    yield one
    one.clean()


@pytest.fixture
def client(host: Host) -> Client:
    """Calls to the daemon of ``host``."""
    return host.client


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    machines = item.config.stash.get(in_use, [])
    if report.failed and machines and machines[-1].container.alive:
        since_usec = int((call.start - 1) * 1_000_000)
        report.sections.append(("journal of the machine", machines[-1].journal(since_usec=since_usec)))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    seconds = ", ".join(f"{boot_sec:.2f}" for boot_sec in config.stash.get(boots, []))
    if seconds:
        terminalreporter.write_line(f"e2e: machines booted in {seconds} s")
