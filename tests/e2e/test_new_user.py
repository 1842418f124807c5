"""The first hour of a new user as a script: from the apt repository to a client behind the gateway, in two minutes.

It runs the first command of README.md, without its questions. "make ubuntu" also tries it on Debian 13 and on
Ubuntu 24.04, whose Python, systemd, polkit and libraries are newer.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.client import Client
from tests.e2e.container import REPOSITORY, THIS_SYSTEM
from tests.e2e.debfile import dependencies
from tests.e2e.debian import TEST_PACKAGES, traces, why_no_package
from tests.e2e.known_services import MIB, add_to
from tests.e2e.machine import Machine
from tests.e2e.repository import MISSING, SOURCES, URL, apt, publish, with_key
from tests.e2e.trees import UBUNTU, tree, why_no_tree

LIMIT_SEC = 120.0
HERE = "this system"
# Trees of other releases take minutes to make, so that they have a make target of their own.
SYSTEMS = (HERE, *(("trixie", "noble") if os.environ.get("GPUMAND_UBUNTU") else ()))
CHAT = {"model": "qwen3:8b", "messages": [{"role": "user", "content": "hello"}], "stream": False}
WHY_NOT = why_no_package() or (f"needs the packages {', '.join(MISSING)}" if MISSING else "")

pytestmark = [pytest.mark.skipif(bool(WHY_NOT), reason=f"e2e: {WHY_NOT}"), pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("release") / "repository"
    with with_key(tmp_path_factory.mktemp("gnupg")) as releases:
        done = releases.add(REPOSITORY, folder)
        assert done.returncode == 0, done.stderr
        yield folder


def base_of(system: str, repository: Path) -> Path:
    """The root folder of a system with all packages that gpumand needs, so that no archive has to be reached."""
    if system == HERE:
        return THIS_SYSTEM
    (deb,) = repository.glob("pool/**/gpumand_*.deb")
    return tree(system, (*(("curl", "polkitd") if system in UBUNTU else TEST_PACKAGES), *dependencies(deb)))


@pytest.fixture(params=SYSTEMS)
def new_host(request: pytest.FixtureRequest, repository: Path) -> Iterator[Machine]:
    """A host with a GPU and three services, whose models are loaded, and without gpumand."""
    if request.param != HERE and why_no_tree():
        pytest.skip(f"e2e: {why_no_tree()}")
    one = Machine(base_of(request.param, repository))
    one.boot()
    try:
        one.remove("/usr/sbin/policy-rc.d", "/var/lib/man-db/auto-update", "/etc/apt/sources.list")
        one.run(["find", "/etc/apt/sources.list.d", "-type", "f", "-delete"])
        publish(one, repository)
        add_to(one)
        yield one
    finally:
        one.kill()


def post(machine: Machine, url: str, body: object) -> dict[str, object]:
    """A request of a client that knows nothing of gpumand."""
    command = ["curl", "-fsS", "-H", "Content-Type: application/json", "-d", json.dumps(body), url]
    answer: dict[str, object] = json.loads(machine.run(command, timeout=60).stdout)
    return answer


class Stopwatch:
    """The time of each step."""

    def __init__(self) -> None:
        self._begin = self._last = time.monotonic()
        self.steps: list[str] = []

    def note(self, step: str) -> None:
        now = time.monotonic()
        self.steps.append(f"{step} {now - self._last:.1f} s")
        self._last = now

    @property
    def total_sec(self) -> float:
        return self._last - self._begin


def test_a_new_user_is_served_through_the_gateway_within_two_minutes(
    new_host: Machine, record_exposure: Callable[..., None]
) -> None:
    watch = Stopwatch()
    new_host.run(["curl", "-fsSLo", SOURCES, f"{URL}/gpumand.sources"])
    apt(new_host, "-o", "APT::Update::Error-Mode=any", "update")
    apt(new_host, "install", "gpumand", "gpumand-gateway")
    watch.note("install")

    done = new_host.run(["gpumanctl", "setup", "--yes", "--gateway"], timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gpumand works." in done.stdout
    watch.note("setup")

    client = Client(new_host)
    found = {one["name"]: one for one in client.status()["consumers"]}
    assert {name: one["vram_resident_mib"] for name, one in found.items()} == MIB

    # A program of its own takes most of the memory: idle services are unloaded for it.
    lease = new_host.run(["gpumanctl", "acquire", "--vram", "18G", "--ttl", "1min", "--timeout", "1min"]).stdout.strip()
    evicted = [one["name"] for one in client.status()["consumers"] if one["residency"] == "unloaded"]
    assert len(evicted) >= 2
    new_host.run(["gpumanctl", "release", lease])
    watch.note("eviction")

    # Clients that were never changed get their answers at the old ports, where the gateway loads what they need.
    chat = post(new_host, "http://127.0.0.1:11434/api/chat", CHAT)
    assert chat["message"] == {"role": "assistant", "content": "hello from ollama"}
    url = "http://127.0.0.1:8080/v1/chat/completions"
    assert "hello from llama-server" in json.dumps(post(new_host, url, CHAT | {"model": "gemma-3-12b"}))
    assert {one["consumer"] for one in client.leases().values()} <= set(MIB)
    watch.note("clients")

    report = new_host.run(["gpumanctl", "doctor"], check=False)
    assert report.returncode == 0, report.stdout
    watch.note("doctor")
    record_exposure(f"a new user: {', '.join(watch.steps)}, {watch.total_sec:.0f} s in all")
    assert watch.total_sec < LIMIT_SEC, watch.steps


def test_a_user_of_the_group_takes_leases_and_the_removal_leaves_working_services(new_host: Machine) -> None:
    before = traces(new_host)
    new_host.run(["curl", "-fsSLo", SOURCES, f"{URL}/gpumand.sources"])
    apt(new_host, "-o", "APT::Update::Error-Mode=any", "update")
    apt(new_host, "install", "gpumand", "gpumand-gateway")
    assert new_host.run(["gpumanctl", "init"]).stdout.count("[consumers.") == len(MIB)
    new_host.run(["gpumanctl", "setup", "--yes", "--gateway"], timeout=90)

    for name in ("alice", "bob"):
        new_host.run(["useradd", "--create-home", name])
    new_host.run(["gpasswd", "--add", "alice", "gpumand"])
    command = ["gpumanctl", "run", "comfyui", "--", "echo", "loaded"]
    assert new_host.run(command, user="alice", timeout=60).stdout == "loaded\n"
    refused = new_host.run(command, user="bob", check=False)
    assert (refused.returncode, refused.stdout) != (0, "loaded\n")
    assert "sudo gpasswd --add bob gpumand" in refused.stderr
    assert "comfyui" in new_host.run(["gpumanctl", "status"], user="bob").stdout
    for name in ("alice", "bob"):
        new_host.run(["userdel", "--remove", name])

    undone = new_host.run(["gpumanctl", "init", "--undo", "--yes"], timeout=90, check=False)
    assert undone.returncode == 0, undone.stdout + undone.stderr
    new_host.remove("/etc/gpumand/conf.d/setup.toml")
    apt(new_host, "purge", "gpumand", "gpumand-gateway")
    assert "hello from ollama" in json.dumps(post(new_host, "http://127.0.0.1:11434/api/chat", CHAT))
    after = traces(new_host)
    # Programs of the system leave files of their own, such as PackageKit.
    left = {line.split(maxsplit=3)[3] for line in after.files - before.files if "gpumand" in line}
    assert left == {SOURCES}
    assert after.accounts == before.accounts
    assert after.units == frozenset()
