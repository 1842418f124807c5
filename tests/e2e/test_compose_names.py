"""Containers that Compose has renamed, in a real Docker and a real Podman.

Compose creates a container again in three steps: it renames one of the two containers to ``<id>_NAME``, creates the
other, and removes the old one. These tests make the same calls and stop after one of them, as a failure of Compose
does.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.client import Client
from tests.e2e.engines import NAMES, EngineHost, engine_host
from tests.e2e.machine import Machine

ENGINES = pytest.mark.parametrize("engine", NAMES)
LABELS = ("--label=com.docker.compose.project=ai", "--label=com.docker.compose.service=comfyui")
RENAMED = "249662c60a09_comfyui"


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
def test_renamed_container_is_still_evicted_and_loaded(host: EngineHost, client: Client, engine: str) -> None:
    host.contained(engine, "comfyui", 10000, create=LABELS)
    host.holder("llama", 20000)
    host.start()
    lease, _ = client.acquire("comfyui")
    client.await_memory("comfyui", 10000)
    client.release(lease)
    host.machine.run([engine, "rename", "comfyui", RENAMED])

    lease, grant = client.acquire("llama")
    assert grant["evicted"] == ["comfyui"]
    assert not host.is_running(engine, RENAMED)
    client.release(lease)

    client.acquire("comfyui")
    assert host.is_running(engine, RENAMED)
    client.await_memory("comfyui", 10000)
    (device,) = client.status()["devices"]
    assert device["foreign"] == []


@ENGINES
def test_old_container_that_runs_on_beside_its_unstarted_successor_is_evicted(
    host: EngineHost, client: Client, engine: str
) -> None:
    host.create(engine, "comfyui", 10000, *LABELS)
    host.machine.run([engine, "start", "comfyui"])
    host.machine.run([engine, "rename", "comfyui", RENAMED])
    host.contained(engine, "comfyui", 10000, create=LABELS)
    host.holder("llama", 20000)
    host.start()
    client.await_residency("comfyui", "resident")
    client.await_memory("comfyui", 10000)

    _, grant = client.acquire("llama")
    assert grant["evicted"] == ["comfyui"]
    assert not host.is_running(engine, RENAMED)
    assert not host.is_running(engine, "comfyui")
