"""``gpumanctl setup`` with questions, on a machine with the package and with services that are not configured yet."""

from __future__ import annotations

import subprocess

import pytest

from tests.e2e.client import Client
from tests.e2e.known_services import add_to
from tests.e2e.machine import Machine

SETUP = "/etc/gpumand/conf.d/setup.toml"
SECOND = "/etc/gpumand/conf.d/setup-2.toml"

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def host(own_machine: Machine) -> Machine:
    """A machine with three services; llama-server has not loaded its model yet."""
    add_to(own_machine, without_model="llama-server")
    return own_machine


def files(machine: Machine) -> dict[str, str]:
    """The configuration by path."""
    names = machine.run(["find", "/etc/gpumand", "-type", "f"]).stdout.split()
    return {name: machine.run(["cat", name]).stdout for name in names}


def answer(machine: Machine, keys: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run setup on a terminal, and type these keys."""
    command = " ".join(["gpumanctl", "setup", *options])
    # script gives the command a terminal; the answers wait in it until they are read.
    return machine.run(["script", "-qec", command, "/dev/null"], stdin=keys, check=False, timeout=90)


def test_setup_asks_before_each_step_and_changes_nothing_of_the_administrator(host: Machine) -> None:
    before = files(host)

    planned = host.run(["gpumanctl", "setup"], check=False)
    assert planned.returncode == 2
    assert "configure comfyui, ollama in a new file;" in planned.stdout
    assert "ask for vram_resident_mib of llama-server, or leave it out;" in planned.stdout
    assert "To carry this out: gpumanctl setup --yes" in planned.stderr
    host.run(["useradd", "alice"])
    refused = host.run(["gpumanctl", "setup", "--yes"], user="alice", check=False)
    assert refused.returncode == 1
    assert "only root can set up the system's gpumand. Run: sudo gpumanctl setup --yes" in refused.stderr
    stopped = answer(host, "\x03")
    assert stopped.returncode == 130, stopped.stdout
    assert files(host) == before, "a run without answers has changed something"

    # The footprint of llama-server, twice since the first answer is no amount; then one service after the other.
    done = answer(host, "much\n8G\nn\ny\ny\ny\n")
    assert done.returncode == 0, done.stdout
    assert "'much' is not an amount of VRAM" in done.stdout
    assert "was leased on GPU 0 and released again. gpumand works." in done.stdout
    assert set(files(host)) - set(before) == {SETUP}
    client = Client(host)
    named = {one["name"]: one["vram_resident_mib"] for one in client.status()["consumers"]}
    assert named == {"llama-server": 8192, "ollama": 6000}
    assert list(client.leases()) == []

    edited = files(host)[SETUP].replace("8192", "8300")
    host.write_file(SETUP, edited)
    again = host.run(["gpumanctl", "setup", "--yes"], timeout=90)
    assert "already configured: llama-server, ollama" in again.stdout
    assert files(host)[SETUP] == edited
    assert "[consumers.comfyui]" in files(host)[SECOND]
    assert {name: text for name, text in files(host).items() if name in before} == before

    complete = files(host)
    host.run(["gpumanctl", "setup", "--yes"], timeout=90)
    assert files(host) == complete, "a further run has changed something"


def test_a_service_that_cannot_be_added_leaves_the_configuration_as_it_was(host: Machine) -> None:
    host.write_file("/etc/gpumand/conf.d/mine.toml", "[consumers.mine]\nunit = 'mine.service'\nvram_mib = 1\n")
    before = files(host)
    done = host.run(["gpumanctl", "setup", "--yes"], check=False)
    assert done.returncode == 1
    assert "the configuration has errors: /etc/gpumand/conf.d/mine.toml:3" in done.stderr
    assert files(host) == before
