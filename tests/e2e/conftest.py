"""Booted machines for e2e tests, with their journal in the report of a failure."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.e2e import engines
from tests.e2e.client import Client
from tests.e2e.container import SYSTEM_CALLS, THIS_SYSTEM
from tests.e2e.debfile import built, dependencies
from tests.e2e.host import Host
from tests.e2e.installation import install
from tests.e2e.machine import Machine
from tests.e2e.trees import tree, why_no_tree
from tests.worker_reports import add_line

SLOW = {"deb", "each_debian"}
FUNCTION_SEC = 120
TOOLS = ("polkitd", "libglib2.0-bin", "curl")
"""Packages that the tests use in the machine, in addition to those that gpumand needs: pkcheck, gdbus, curl."""

in_use = pytest.StashKey[list[Machine]]()


def _booted(
    config: pytest.Config, deb: Path, base: Path = THIS_SYSTEM, system_calls: str = SYSTEM_CALLS
) -> Iterator[Machine]:
    one = Machine(base, system_calls)
    one.boot()
    add_line(config, f"e2e: a machine booted in {one.boot_sec:.2f} s")
    config.stash.setdefault(in_use, []).append(one)
    try:
        install(one, deb)
        yield one
    finally:
        config.stash[in_use].remove(one)
        one.kill()


@pytest.fixture(scope="session")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """gpumand's Debian package, built from the current checkout."""
    return built(tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="session")
def machine(pytestconfig: pytest.Config, deb: Path) -> Iterator[Machine]:
    """A booted systemd with gpumand's package installed; shared by all tests."""
    yield from _booted(pytestconfig, deb)


@pytest.fixture
def own_machine(pytestconfig: pytest.Config, deb: Path) -> Iterator[Machine]:
    """A machine for a single test, which would disturb other tests."""
    yield from _booted(pytestconfig, deb)


@pytest.fixture(scope="session", params=["bookworm", "trixie"])
def each_debian(request: pytest.FixtureRequest, pytestconfig: pytest.Config, deb: Path) -> Iterator[Machine]:
    """A machine for each Debian release: that of this host, and the other one."""
    if request.param == platform.freedesktop_os_release().get("VERSION_CODENAME"):
        yield request.getfixturevalue("machine")
        return
    if why_no_tree():
        pytest.skip(f"e2e: {why_no_tree()}")
    yield from _booted(pytestconfig, deb, tree(request.param, (*dependencies(deb), *TOOLS)))


@pytest.fixture(scope="session")
def machine_with_engines(pytestconfig: pytest.Config, deb: Path) -> Iterator[Machine]:
    """A machine with Docker and Podman of this host's Debian release, and an image for containers."""
    if why_no_tree():
        pytest.skip(f"e2e: {why_no_tree()}")
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    base = tree(release, (*dependencies(deb), *TOOLS, *engines.PACKAGES))
    for one in _booted(pytestconfig, deb, base, engines.SYSTEM_CALLS):
        engines.start(one)
        yield one


@pytest.fixture(scope="session")
def gateway_deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Debian package of the gateway, built from the current checkout."""
    return built(tmp_path_factory.mktemp("gateway-deb"), "gpumand-gateway")


@pytest.fixture(scope="module")
def installed(machine: Machine, gateway_deb: Path) -> Iterator[Machine]:
    """The machine with the gateway's package, as the installation leaves it."""
    shutil.copy(gateway_deb, f"/proc/{machine.container.leader}/root/root/{gateway_deb.name}")
    dpkg = ["env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--force-unsafe-io"]
    machine.run([*dpkg, "--install", f"/root/{gateway_deb.name}"])
    machine.remove(f"/root/{gateway_deb.name}")
    yield machine
    machine.run([*dpkg, "--purge", "gpumand-gateway"])
    machine.systemctl("stop", "gpumand.service")


@pytest.fixture
def record_exposure(pytestconfig: pytest.Config) -> Callable[..., None]:
    """A function that records a line to show at the end of the run, and the unit that it is about."""

    def record(line: str, unit: str = "gpumand.service") -> None:
        add_line(pytestconfig, f"e2e: exposure of {unit}: {line}")

    return record


@pytest.fixture
def host(machine: Machine) -> Iterator[Host]:
    """A host without consumers, whose daemon is not started yet."""
    one = Host(machine, Client(machine))
    # Another file's tests may have left a daemon running, which starting does not give a new configuration.
    machine.systemctl("stop", "gpumand.service", check=False)
    one.make_vram_dir()
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
    if report.failed and (machine := _machine_of(item)) and machine.container.alive:
        since_usec = int((call.start - 1) * 1_000_000)
        report.sections.append(("journal of the machine", machine.journal(since_usec=since_usec)))
    return report


def _machine_of(item: pytest.Item) -> Machine | None:
    """Return the machine of a test; the last one that was booted if the test has none yet."""
    for value in getattr(item, "funcargs", {}).values():
        if isinstance(value, Machine | Host):
            return value if isinstance(value, Machine) else value.machine
    machines = item.config.stash.get(in_use, [])
    return machines[-1] if machines else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Limit the time of the test function only: the first test in a process also waits minutes for its machine."""
    for item in items:
        if SLOW & set(getattr(item, "fixturenames", ())) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(FUNCTION_SEC, func_only=True))
