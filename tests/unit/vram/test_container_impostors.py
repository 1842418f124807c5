"""What users can fake: names of cgroups and programs, proxies, and units of the same name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gpumand.domain.container import ContainerState
from gpumand.ports import ContainerFailed
from tests.unit.vram.container_host import GPU_PID, GPU_PID_2, ID, OTHER, UNIT, USER, Host, docker, running_host


@pytest_asyncio.fixture
async def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    async with running_host(tmp_path, monkeypatch) as one:
        yield one


@pytest_asyncio.fixture
async def user_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    async with running_host(tmp_path, monkeypatch, manager_uid=1000) as one:
        yield one


async def test_user_cannot_pass_off_a_process_as_another_container_by_a_cgroup_name(host: Host) -> None:
    host.proc.add(50, f"/system.slice/docker-{ID}.scope")
    host.engine.states = [docker(pid=50)]
    host.proc.add(GPU_PID, f"{USER}/docker-{ID}.scope")
    host.proc.add(GPU_PID_2, f"{USER}/app.slice/lxc/comfyui")
    host.hold(GPU_PID, GPU_PID_2)
    host.configure(comfyui={"container": "comfyui"}, llm={"slice": "app.slice"})
    assert await host.consumers() == ["", ""]


async def test_user_cannot_pass_off_a_process_by_a_program_called_conmon(host: Host) -> None:
    host.engine.failure = ContainerFailed("no engine", "unavailable")
    host.proc.conmon(400, ID, "comfyui", "/user.slice/user-1000.slice/session-1.scope", uid=1000)
    host.proc.add(GPU_PID, f"/docker/{ID}", parent=400)
    host.configure(comfyui={"container": "comfyui"})
    assert await host.consumers() == [""]


async def test_user_cannot_take_over_a_container_with_a_proxy_of_his_own(host: Host) -> None:
    host.proc.add(300, UNIT, command="docker run -p 8188:8188 img", started=100)
    host.proc.proxy(301, 8188, "172.17.0.9", uid=1000)
    host.proc.add(GPU_PID, f"/docker/{ID}", address="172.17.0.9")
    host.configure(comfyui={"unit": "comfyui.service"})
    assert await host.consumers() == [""]


async def test_client_of_a_user_in_a_unit_of_the_same_name_counts_for_nothing(host: Host) -> None:
    host.proc.add(300, f"{USER}/app.slice/comfyui.service", command="podman run --name ui img", uid=1000)
    host.proc.conmon(400, ID, "ui", f"/machine.slice/libpod-conmon-{ID}.scope")
    host.proc.add(GPU_PID, f"/machine.slice/libpod-{ID}.scope/container", parent=400)
    host.configure(comfyui={"unit": "comfyui.service"})
    assert await host.consumers() == [""]


async def test_container_of_rootless_podman_that_the_engine_names(host: Host) -> None:
    path = f"{USER}/user.slice/libpod-{ID}.scope/container"
    host.proc.add(GPU_PID, path)
    host.engine.states = [ContainerState("podman", ID, "comfyui", True, GPU_PID)]
    host.configure(comfyui={"container": "comfyui"})
    assert await host.consumers() == ["comfyui"]


async def test_daemon_of_a_user_recognises_the_users_own_containers_and_quadlets(user_host: Host) -> None:
    host = user_host
    host.proc.conmon(400, ID, "comfyui", f"{USER}/user.slice/libpod-conmon-{ID}.scope", uid=500)
    host.proc.add(GPU_PID, f"{USER}/user.slice/libpod-{ID}.scope/container", parent=400)
    host.proc.conmon(401, OTHER, "systemd-llm", f"{USER}/app.slice/llm.service", uid=500)
    host.proc.add(GPU_PID_2, f"{USER}/user.slice/libpod-{OTHER}.scope/container", parent=401)
    host.hold(GPU_PID, GPU_PID_2)
    host.configure(comfyui={"container": "comfyui"}, llm={"unit": "llm.service"})
    assert await host.consumers() == ["comfyui", "llm"]
