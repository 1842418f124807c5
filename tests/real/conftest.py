"""The machine of these tests: a booted Debian with gpumand's package and the packages of the real servers."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.e2e.client import Client
from tests.e2e.debfile import built, dependencies
from tests.e2e.installation import install
from tests.e2e.machine import Machine
from tests.real.host import RealHost
from tests.real.packages import NoPackages, tree_with_servers

FUNCTION_SEC = 120
TOOLS = ("polkitd", "libglib2.0-bin", "curl", "procps")
"""Packages that the tests use inside the machine, in addition to the servers and gpumand's dependencies."""


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A booted systemd with gpumand, the servers and their models. Shared by all tests of a process."""
    deb = built(tmp_path_factory.mktemp("deb"))
    machine = _boot(deb)
    try:
        install(machine, deb)
        RealHost(machine, Client(machine)).put_models()
        yield machine
    finally:
        machine.kill()


def _boot(deb: Path) -> Machine:
    try:
        tree = tree_with_servers((*dependencies(deb), *TOOLS))
    except NoPackages as reason:
        pytest.skip(f"real: {reason}")
    machine = Machine(tree)
    machine.boot()
    return machine


@pytest.fixture
def host(machine: Machine) -> Iterator[RealHost]:
    """A host without consumers. Its daemon is not started yet."""
    one = RealHost(machine, Client(machine))
    one.mark_log()
    yield one
    one.clean()


@pytest.fixture
def client(host: RealHost) -> Client:
    """A client of the daemon of ``host``."""
    return host.client


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the log lines of the daemon and the servers to the report of a failed test."""
    report = yield
    host = getattr(item, "funcargs", {}).get("host")
    if report.failed and isinstance(host, RealHost) and host.machine.container.alive:
        since_usec = int((call.start - 1) * 1_000_000)
        report.sections.append(("journal of the machine", host.machine.journal(since_usec=since_usec)))
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Limit the time of the test function only: the first test in a process also waits minutes for its machine."""
    for item in items:
        if "machine" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(FUNCTION_SEC, func_only=True))
