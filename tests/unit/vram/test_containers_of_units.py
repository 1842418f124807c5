"""Containers that a unit starts: recognised by its client, its monitor, or the time of the start."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gpumand.ports import ContainerFailed
from tests.unit.vram.container_host import GPU_PID, GPU_PID_2, ID, OTHER, TICKS, UNIT, Host, running_host


@pytest_asyncio.fixture
async def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    async with running_host(tmp_path, monkeypatch) as one:
        yield one


STARTED_BY_UNIT = {
    "podman run --name": "podman run --rm --name ui img",
    "podman run --cidfile": "podman run --rm --cidfile={cid} img",
    "docker run --publish": "docker run --rm -p 8188:8188 img",
    "docker run with the port of the url": "docker run --rm --env-file x img",
    "docker compose up": "/usr/libexec/docker/cli-plugins/docker-compose compose up",
}


@pytest.mark.parametrize("command", STARTED_BY_UNIT.values(), ids=STARTED_BY_UNIT.keys())
async def test_unit_that_runs_a_container_client_is_recognised(host: Host, command: str, tmp_path: Path) -> None:
    cid_file = tmp_path / "id"
    cid_file.write_text(ID)
    host.engine.failure = ContainerFailed("not configured", "denied")
    host.proc.add(300, UNIT, command=command.format(cid=cid_file), started=100)
    if command.startswith("podman"):
        host.proc.conmon(400, ID, "ui", f"/machine.slice/libpod-conmon-{ID}.scope", started=100 + 60 * TICKS)
        path = f"/machine.slice/libpod-{ID}.scope/container"
    else:
        host.proc.shim(400, ID, started=100 + 60 * TICKS)
        host.proc.proxy(301, 8188, "172.17.0.2")
        path = f"/system.slice/docker-{ID}.scope"
    host.proc.add(GPU_PID, path, parent=400, address="172.17.0.2", started=100 + 61 * TICKS)
    host.configure(comfyui={"unit": "comfyui.service", "url": "http://127.0.0.1:8188"})
    assert await host.consumers() == ["comfyui"]


async def test_unit_of_one_consumer_and_container_of_another_share_the_memory(host: Host) -> None:
    """Stopping the unit would end the server of the other consumer."""
    host.proc.add(300, UNIT, command="podman run --name ui img")
    host.proc.conmon(400, ID, "ui", f"/machine.slice/libpod-conmon-{ID}.scope")
    host.proc.add(GPU_PID, f"/machine.slice/libpod-{ID}.scope/container", parent=400)
    host.configure(one={"unit": "comfyui.service"}, two={"container": "ui"})
    (process,) = (await host.source.read()).devices[0].processes
    assert set(process.shared) == {"one", "two"}
    host.configure(one={"unit": "comfyui.service", "container": "ui"})
    assert await host.consumers() == ["one"]


async def test_client_that_has_ended_is_known_from_its_unit(host: Host) -> None:
    """``docker run -d`` and ``podman run -d`` end when the container runs."""
    host.engine.failure = ContainerFailed("not configured", "denied")
    host.commands = {
        "comfyui.service": "/usr/bin/docker run -d -p 8188:80 img",
        "llm.service": "podman run -d --name x i",
    }
    host.proc.proxy(301, 8188, "172.17.0.2")
    host.proc.add(GPU_PID, f"/docker/{ID}", address="172.17.0.2")
    host.proc.conmon(400, OTHER, "x", f"/machine.slice/libpod-conmon-{OTHER}.scope")
    host.proc.add(GPU_PID_2, f"/machine.slice/libpod-{OTHER}.scope/container", parent=400)
    host.hold(GPU_PID, GPU_PID_2)
    host.configure(comfyui={"unit": "comfyui.service"}, llm={"unit": "llm.service"})
    assert await host.consumers() == ["comfyui", "llm"]


async def test_quadlet_is_recognised_by_the_unit_of_its_monitor(host: Host) -> None:
    """With --cgroups=no-conmon the monitor stays in the unit, while the container has a scope of its own."""
    host.proc.conmon(400, ID, "systemd-ui", UNIT)
    host.proc.add(GPU_PID, f"/machine.slice/libpod-{ID}.scope/container", parent=400)
    host.configure(comfyui={"unit": "comfyui.service"})
    assert await host.consumers() == ["comfyui"]


async def test_client_without_any_name_is_recognised_by_the_time_of_the_start(host: Host) -> None:
    host.proc.add(300, UNIT, command="docker run img", started=1000)
    host.proc.shim(400, ID, started=1000 + TICKS)
    host.proc.add(GPU_PID, f"/docker/{ID}", parent=400)
    host.configure(comfyui={"unit": "comfyui.service"})
    assert await host.consumers() == ["comfyui"]


async def test_time_of_the_start_decides_nothing_between_two_containers(host: Host) -> None:
    host.proc.add(300, UNIT, command="docker run img", started=1000)
    for shim, pid, one in ((400, GPU_PID, ID), (401, GPU_PID_2, OTHER)):
        host.proc.shim(shim, one, started=1000 + TICKS)
        host.proc.add(pid, f"/docker/{one}", parent=shim)
    host.hold(GPU_PID, GPU_PID_2)
    host.configure(comfyui={"unit": "comfyui.service"})
    assert await host.consumers() == ["", ""]
    assert await host.held("comfyui") is None, "it may be either"


async def test_container_that_started_long_after_the_client_is_another_one(host: Host) -> None:
    host.proc.add(300, UNIT, command="docker run img", started=1000)
    host.proc.shim(400, ID, started=1000 + 3600 * TICKS)
    host.proc.add(GPU_PID, f"/docker/{ID}", parent=400)
    host.configure(comfyui={"unit": "comfyui.service"})
    assert await host.consumers() == [""]
    assert await host.held("comfyui") is None


async def test_unit_without_a_client_holds_nothing_while_other_containers_do(host: Host) -> None:
    host.proc.add(GPU_PID, f"/docker/{ID}")
    host.configure(llama={"unit": "llama.service"})
    assert await host.consumers() == [""]
    assert await host.held("llama") == 0
