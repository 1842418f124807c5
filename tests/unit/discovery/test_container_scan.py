"""The containers that the engines of a host report, and the cgroups of processes."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from gpumand.discovery.container_scan import running_containers, scan_containers
from gpumand.root_helpers.container_engine import Engine
from gpumand.testing.container_engine import FakeContainer, FakeEngine

RUNNING = FakeContainer("comfyui", "ab" * 32, status="running", pid=77, restart_policy="always")
RUNNING.ports = {"8188/tcp": [{"HostIp": "127.0.0.1", "HostPort": "9000"}], "53/udp": None}


async def test_running_containers_are_listed_with_what_the_configuration_needs(tmp_path: Path) -> None:
    engine = FakeEngine(RUNNING, FakeContainer("old", "cd" * 32, status="exited"))
    await engine.listen(str(tmp_path / "docker.sock"))
    (state,), error = await asyncio.to_thread(running_containers, [Engine("docker", str(tmp_path / "docker.sock"))])
    assert (state.name, state.pid, state.restart_policy, error) == ("comfyui", 77, "always", "")
    assert [(one.host_port, one.container_port) for one in state.ports] == [(9000, 8188)]
    assert all(request.startswith("GET ") for request in engine.requests)
    await engine.close()


@pytest.mark.parametrize(
    "garbage", [b"", b"HTTP/1.1 200 OK\r\n\r\n[[[", b'HTTP/1.1 200 OK\r\n\r\n[1,{"Id":5}]', b"\0\0"]
)
async def test_engine_that_answers_nonsense_costs_only_its_own_containers(tmp_path: Path, garbage: bytes) -> None:
    good, bad = FakeEngine(RUNNING), FakeEngine()
    bad.garbage, bad.status = garbage, 500
    await good.listen(str(tmp_path / "good"))
    await bad.listen(str(tmp_path / "bad"))
    engines = [Engine("podman", str(tmp_path / "bad")), Engine("docker", str(tmp_path / "good"))]
    states, _ = await asyncio.to_thread(running_containers, engines)
    assert [one.name for one in states] == ["comfyui"]
    for engine in (good, bad):
        await engine.close()


async def test_socket_without_an_engine_is_reported_and_a_link_counts_once(tmp_path: Path) -> None:
    engine = FakeEngine(RUNNING)
    await engine.listen(str(tmp_path / "podman.sock"))
    (tmp_path / "docker.sock").symlink_to(tmp_path / "podman.sock")
    (tmp_path / "dead.sock").write_text("")
    names = {"docker": "docker.sock", "podman": "podman.sock", "other": "dead.sock", "none": "missing.sock"}
    engines = [Engine(name, str(tmp_path / path)) for name, path in names.items()]
    states, error = await asyncio.to_thread(running_containers, engines)
    assert [one.engine for one in states] == ["podman"]
    assert "dead.sock" in error
    assert "missing.sock" not in error
    await engine.close()


def test_process_outside_of_containers_is_in_none() -> None:
    assert scan_containers([os.getpid(), 2**22 + 1], ()) == () or "docker" in Path("/proc/self/cgroup").read_text()
