"""Containers of a real Docker and a real Podman that are found without naming them, and by init and doctor."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

import pytest

from tests.e2e.client import Client
from tests.e2e.engines import IMAGE, NAMES, EngineHost, command, engine_host, options
from tests.e2e.machine import Machine

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


@ENGINES
def test_unit_that_runs_a_container_needs_no_further_key(host: EngineHost, client: Client, engine: str) -> None:
    host.machine.run(["mkdir", "--parents", "--mode=1777", "/run/e2e-vram"])
    run = [f"/usr/bin/{engine}", "run", "--rm", *options("ui"), IMAGE, *command("comfyui", 10000)]
    host.unit("comfyui", " ".join(run), "TimeoutStopSec=20")
    host.consumer("comfyui", 10000)
    host.holder("llama", 20000)
    host.start()
    for _ in range(2):
        lease, _ = client.acquire("comfyui")
        client.await_memory("comfyui", 10000)
        (device,) = client.status()["devices"]
        assert (device["used_mib"], device["reserved_mib"], device["foreign"]) == (10000, 0, [])
        client.release(lease)
        client.use("llama", 20000)
        assert client.consumer("comfyui")["residency"] == "unloaded"


@ENGINES
def test_init_and_doctor_recognise_a_container_by_its_image(host: EngineHost, engine: str) -> None:
    host.machine.run([engine, "tag", IMAGE, "ollama/ollama"])
    host.machine.run(["mkdir", "--parents", "--mode=1777", "/run/e2e-vram"])
    argv = [engine, "run", "--detach", *options("chat"), "ollama/ollama", *command("chat", 10000)]
    host.machine.run(argv)
    host.holder("llama", 20000)
    host.start()

    text = host.machine.run(["gpumanctl", "init", "--no-probe", "--source=none"]).stdout

    consumer = tomllib.loads(text)["consumers"]["ollama"]
    assert (consumer["preset"], consumer["container"], "unit" in consumer) == ("ollama", "chat", False)
    said = " ".join(host.machine.run(["gpumanctl", "doctor"], check=False).stdout.split())
    assert "container chat" in said, said
    assert "looks like" in said, said
    host.machine.run([engine, "rmi", "--force", "ollama/ollama"], check=False)
