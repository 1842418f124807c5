"""Consumers in containers of a real Docker and a real Podman, which the container helper starts and stops."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.client import Client
from tests.e2e.engines import IMAGE, NAMES, EngineHost, command, engine_host, options
from tests.e2e.machine import Machine

HELPER = "gpumand-containers.service"
MOST_EXPOSED = 1.0
ENGINES = pytest.mark.parametrize("engine", NAMES)


@pytest.fixture(scope="module")
def machine(machine_with_engines: Machine) -> Machine:
    """Run on the machine with engines."""
    return machine_with_engines


@pytest.fixture
def host(machine: Machine) -> Iterator[EngineHost]:
    one = engine_host(machine)
    yield one
    one.clean()


def used_mib(client: Client) -> int:
    (device,) = client.status()["devices"]
    return int(device["used_mib"])


def foreign(client: Client) -> list[dict[str, object]]:
    (device,) = client.status()["devices"]
    found: list[dict[str, object]] = device["foreign"]
    return found


def evictions(host: EngineHost) -> list[str]:
    lines = host.machine.journal("gpumand.service", lines=500).splitlines()
    return [line for line in lines if "evict" in line]


@ENGINES
def test_container_is_loaded_leased_evicted_and_loaded_again(host: EngineHost, client: Client, engine: str) -> None:
    host.contained(engine, "comfyui", 10000)
    host.holder("llama", 20000)
    host.start()

    lease, grant = client.acquire("comfyui")
    assert host.is_running(engine, "comfyui"), grant
    client.await_memory("comfyui", 10000)
    assert (used_mib(client), foreign(client)) == (10000, []), "its memory is counted once"
    client.release(lease)

    lease, grant = client.acquire("llama")
    assert grant["evicted"] == ["comfyui"]
    assert not host.is_running(engine, "comfyui")
    client.await_memory("llama", 20000)
    assert (used_mib(client), foreign(client)) == (20000, [])
    client.release(lease)

    _, grant = client.acquire("comfyui")
    assert (grant["evicted"], host.is_running(engine, "comfyui")) == (["llama"], True)


@ENGINES
def test_restart_policy_does_not_undo_an_eviction(host: EngineHost, client: Client, engine: str) -> None:
    host.contained(engine, "comfyui", 10000, create=("--restart=always",))
    host.holder("llama", 20000)
    host.start()
    lease, _ = client.acquire("comfyui")
    client.release(lease)
    _, grant = client.acquire("llama")
    assert (grant["evicted"], host.is_running(engine, "comfyui")) == (["comfyui"], False)


def test_container_that_another_program_starts_again_is_an_eviction_failure(host: EngineHost, client: Client) -> None:
    host.contained("docker", "comfyui", 10000, create=("--restart=always",))
    host.holder("llama", 20000)
    host.unit("fighter", "/bin/sh -c 'while :; do docker start comfyui; sleep 0.05; done'")
    host.start()
    lease, _ = client.acquire("comfyui")
    client.await_memory("comfyui", 10000)
    client.release(lease)
    host.machine.systemctl("start", "fighter.service")

    name, message = client.refusal("Acquire", "llama", "{'timeout_usec': <uint64 20000000>}")

    assert name.startswith("org.gpumand1.Error."), message
    assert host.machine.show("llama.service", "ActiveState") == "inactive", "not loaded beside the other"
    said = "\n".join(evictions(host))
    assert "comfyui was started again right after it was stopped; its restart policy is always" in said
    host.machine.systemctl("stop", "fighter.service")


@ENGINES
def test_container_that_exits_while_loading_is_a_failed_load_with_its_output(
    host: EngineHost, client: Client, engine: str
) -> None:
    crash = ("/bin/sh", "-c", "sleep 0.5; echo CUDA error: out of memory >&2; exit 3")
    host.create(engine, "comfyui", 10000, argv=crash)
    route = ('url = "http://127.0.0.1:8199"', 'health = { path = "/health" }')
    host.consumer("comfyui", 10000, 'container = "comfyui"', *route, unit=False)
    host.start()
    name, message = client.refusal("Acquire", "comfyui", "{'timeout_usec': <uint64 20000000>}")
    assert name == "org.gpumand1.Error.LoadFailed", message
    assert "exit status 3" in message
    assert "CUDA error: out of memory" in message


def test_crash_loop_of_a_container_fails_the_load(host: EngineHost, client: Client) -> None:
    crash = ("/bin/sh", "-c", "sleep 0.7; echo no kernel image >&2; exit 3")
    host.create("docker", "comfyui", 10000, "--restart=always", argv=crash)
    route = ('url = "http://127.0.0.1:8199"', 'health = { path = "/health" }')
    host.consumer("comfyui", 10000, 'container = "comfyui"', *route, unit=False)
    host.start()
    name, message = client.refusal("Acquire", "comfyui", "{'timeout_usec': <uint64 20000000>}")
    assert name == "org.gpumand1.Error.LoadFailed", message
    assert "no kernel image" in message
    assert not host.is_running("docker", "comfyui"), "a failed load is stopped, its restart policy notwithstanding"


def test_container_stopped_by_an_administrator_is_unloaded(host: EngineHost, client: Client) -> None:
    engine = "podman"
    host.contained(engine, "comfyui", 10000)
    host.start()
    lease, _ = client.acquire("comfyui")
    client.await_memory("comfyui", 10000)
    client.release(lease)
    host.machine.run([engine, "stop", "--time=1", "comfyui"])
    client.await_residency("comfyui", "unloaded", 15)
    host.machine.run([engine, "start", "comfyui"])
    client.await_residency("comfyui", "resident", 15)


# -- units that run containers -----------------------------------------------------------------------------------------


def unit_of(host: EngineHost, engine: str, *more: str) -> None:
    """A unit that runs a container in the foreground, and its consumer with unit and container."""
    run = [f"/usr/bin/{engine}", "run", "--rm", *more, *options("comfyui"), IMAGE, *command("comfyui", 10000)]
    host.machine.run(["mkdir", "--parents", "--mode=1777", "/run/e2e-vram"])
    host.unit("comfyui", " ".join(run), "TimeoutStopSec=20")
    host.consumer("comfyui", 10000, 'container = "comfyui"')


@ENGINES
def test_unit_that_runs_a_container_is_started_and_stopped(host: EngineHost, client: Client, engine: str) -> None:
    unit_of(host, engine)
    host.holder("llama", 20000)
    host.start()
    lease, _ = client.acquire("comfyui")
    client.await_memory("comfyui", 10000)
    assert (used_mib(client), foreign(client)) == (10000, [])
    assert host.machine.show("comfyui.service", "ActiveState") == "active"
    client.release(lease)
    _, grant = client.acquire("llama")
    assert (grant["evicted"], host.is_running(engine, "comfyui")) == (["comfyui"], False)
    assert host.machine.show("comfyui.service", "ActiveState") != "active"


def test_container_that_outlives_its_unit_is_stopped_by_its_engine(host: EngineHost, client: Client) -> None:
    unit_of(host, "docker")
    host.holder("llama", 20000)
    host.start()
    lease, _ = client.acquire("comfyui")
    client.await_memory("comfyui", 10000)
    client.release(lease)
    host.machine.systemctl("kill", "--signal=KILL", "comfyui.service")
    host.machine.wait_until(
        lambda: host.machine.show("comfyui.service", "ActiveState") == "failed", "the client of Docker is dead"
    )
    assert host.is_running("docker", "comfyui"), "docker run leaves the container when it is killed"
    host.machine.wait_until(lambda: client.consumer("comfyui")["residency"] == "resident", "it is found", 10)

    _, grant = client.acquire("llama", timeout_usec=40_000_000)

    assert grant["evicted"] == ["comfyui"]
    assert not host.is_running("docker", "comfyui")


def test_container_of_a_quadlet_unit_is_evicted_with_its_unit(host: EngineHost, client: Client) -> None:
    """Debian 12 has a Podman without quadlet, so the unit is what quadlet of Podman 5 generates."""
    run = ["/usr/bin/podman", "run", "--replace", "--rm", "--cgroups=split", "--sdnotify=conmon", "-d"]
    argv = [*run, *options("comfyui"), IMAGE, *command("comfyui", 10000)]
    host.machine.run(["mkdir", "--parents", "--mode=1777", "/run/e2e-vram"])
    stop = "/usr/bin/podman rm --force --ignore --time=1 comfyui"
    lines = ("KillMode=mixed", f"ExecStop={stop}", f"ExecStopPost=-{stop}", "Delegate=yes", "NotifyAccess=all")
    host.unit("comfyui", " ".join(argv), *lines, "Type=notify", "Environment=PODMAN_SYSTEMD_UNIT=%n", "Restart=always")
    host.consumer("comfyui", 10000)
    host.holder("llama", 20000)
    host.start()
    lease, _ = client.acquire("comfyui")
    client.await_memory("comfyui", 10000)
    assert (used_mib(client), foreign(client)) == (10000, [])
    client.release(lease)
    _, grant = client.acquire("llama")
    assert (grant["evicted"], host.is_running("podman", "comfyui")) == (["comfyui"], False)


# -- the helper --------------------------------------------------------------------------------------------------------

ASK = """
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.settimeout(20)
client.connect("/run/gpumand-containers.sock")
client.sendall(sys.argv[1].encode() + b"\\n")
print(client.makefile().readline())
"""


def ask(host: EngineHost, request: dict[str, object], user: str = "_gpumand") -> dict[str, object]:
    done = host.machine.run(["python3", "-c", ASK, json.dumps(request)], user=user, check=False)
    answer: dict[str, object] = json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr}
    return answer


def test_helper_is_confined_and_refuses_everything_else(
    host: EngineHost, record_exposure: Callable[[str], None]
) -> None:
    host.contained("docker", "comfyui", 10000)
    host.create("docker", "other", 10000)
    host.start()

    assert ask(host, {"do": "inspect", "container": "comfyui"})["ok"]
    assert ask(host, {"do": "start", "container": "other"})["reason"] == "denied"
    assert not host.is_running("docker", "other")
    assert "Permission denied" in str(ask(host, {"do": "list"}, user="nobody")["error"])
    assert host.machine.run(["stat", "--format=%a %U", "/run/gpumand-containers.sock"]).stdout == "600 _gpumand\n"

    pid = host.machine.main_pid(HELPER)
    status = host.machine.run(["cat", f"/proc/{pid}/status"]).stdout
    assert re.findall(r"^(?:CapEff|CapBnd):\s*(\w+)", status, re.MULTILINE) == ["0" * 16] * 2
    visible = host.machine.run(["sh", "-c", f"cd /proc/{pid}/root/run && find . ! -type d"]).stdout.split()
    assert sorted(visible) == ["./docker.sock", "./podman/podman.sock"]
    said = host.machine.run(["systemd-analyze", "security", "--no-pager", HELPER]).stdout
    match = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert match, said
    record_exposure(f"{HELPER}: {match[1]}")
    assert float(match[1]) <= MOST_EXPOSED, said
    fragment = host.machine.show(HELPER, "FragmentPath")
    assert host.machine.run(["systemd-analyze", "--man=no", "verify", fragment]).stderr == ""


def test_configuration_that_others_can_write_names_no_container(host: EngineHost) -> None:
    host.contained("docker", "comfyui", 10000)
    host.start()
    host.machine.run(["chmod", "0666", "/etc/gpumand/gpumand.toml"])
    assert ask(host, {"do": "start", "container": "comfyui"})["reason"] == "denied"


def test_engine_that_is_started_later_is_found(host: EngineHost, client: Client) -> None:
    host.contained("podman", "comfyui", 10000)
    host.machine.systemctl("stop", "podman.socket", "podman.service")
    try:
        host.start()
        _, message = client.refusal("Acquire", "comfyui", "{'timeout_usec': <uint64 5000000>}")
        assert "podman" in message, message
    finally:
        host.machine.systemctl("start", "podman.socket")
    argv = ["gpumanctl", "load", "comfyui"]
    host.machine.wait_until(lambda: host.machine.run(argv, check=False).returncode == 0, "podman is found", 60)
    assert host.is_running("podman", "comfyui")
