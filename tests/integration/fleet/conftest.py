"""Three hosts, an agent, and a real etcd; its tests are skipped by name where etcd is not installed."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gpumand.cli.fleet_setup.folders import Folders
from gpumand.testing.daemon import PrivateGpumand
from tests.integration.fleet.agent_server import AgentServer, agent_server
from tests.integration.fleet.fleet_hosts import FleetHosts, fleet_hosts, running_daemons
from tests.integration.fleet.founded_fleet import Run, fleet_command, founded_fleet
from tests.integration.fleet.plain_etcd import PlainEtcd, running_etcd
from tests.integration.fleet.tls_etcd import TlsEtcd


def _etcd() -> Iterator[PlainEtcd]:
    if shutil.which("etcd") is None:
        pytest.skip("etcd is not installed (Debian: etcd-server)")
    with running_etcd() as running:
        yield running


@pytest.fixture(scope="module")
def shared_etcd() -> Iterator[PlainEtcd]:
    """One etcd for the tests of a module, each of which has a fleet of its own in it."""
    yield from _etcd()


@pytest.fixture
def own_etcd() -> Iterator[PlainEtcd]:
    """An etcd that the test may kill."""
    yield from _etcd()


@pytest.fixture(scope="module")
def daemons() -> Iterator[list[PrivateGpumand]]:
    with running_daemons() as started:
        yield started


@pytest.fixture
async def hosts(shared_etcd: PlainEtcd, daemons: list[PrivateGpumand]) -> AsyncIterator[FleetHosts]:
    """Three hosts with the same three consumers, nothing loaded, and etcd."""
    async with fleet_hosts(daemons, shared_etcd.url) as started:
        yield started


@pytest.fixture
async def agent() -> AsyncIterator[AgentServer]:
    async with agent_server() as started:
        yield started


@pytest.fixture
def ctl(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Returns a function that runs gpumanctl fleet on the host with a machine id."""
    return fleet_command(capsys, monkeypatch)


@pytest.fixture
def first(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "one")


@pytest.fixture
def second(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "two")


@pytest.fixture
def founded(ctl: Run, first: Folders) -> Iterator[TlsEtcd]:
    """A fleet whose etcd runs."""
    with founded_fleet(ctl, first) as etcd:
        yield etcd
