"""Attribution of processes in containers: by configuration and by the engine, which may not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gpumand.domain.container import ContainerState
from gpumand.domain.device import ProcessUse
from gpumand.ports import ContainerFailed
from tests.unit.vram.container_host import GPU_PID, GPU_PID_2, ID, OTHER, Host, docker, running_host


@pytest_asyncio.fixture
async def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    async with running_host(tmp_path, monkeypatch) as one:
        yield one


async def test_container_that_the_engine_knows_by_name(host: Host) -> None:
    host.proc.add(GPU_PID, f"/system.slice/docker-{ID}.scope")
    host.engine.states = [docker()]
    host.configure(comfyui={"container": "comfyui"})
    assert await host.consumers() == ["comfyui"]
    (process,) = (await host.source.read()).devices[0].processes
    assert process.container == "comfyui"


async def test_container_that_compose_has_renamed_stays_attributed(host: Host) -> None:
    host.proc.add(GPU_PID, f"/system.slice/docker-{ID}.scope")
    host.engine.states = [docker(name="0123456789ab_comfyui")]
    host.configure(comfyui={"container": "comfyui"})
    assert await host.consumers() == ["comfyui"]


async def test_renamed_container_of_podman_is_found_without_its_engine(host: Host) -> None:
    host.engine.failure = ContainerFailed("no engine", "unavailable")
    host.proc.add(400, f"/machine.slice/libpod-conmon-{ID}.scope", command=f"conmon -c {ID} -n 0123456789ab_comfyui")
    host.proc.add(GPU_PID, f"/machine.slice/libpod-{ID}.scope/container", parent=400)
    host.configure(comfyui={"container": "comfyui"})
    assert await host.consumers() == ["comfyui"]


async def test_restarted_container_has_another_id_and_stays_attributed(host: Host) -> None:
    host.proc.add(GPU_PID, f"/system.slice/docker-{ID}.scope")
    host.engine.states = [docker()]
    host.configure(comfyui={"container": "comfyui"})
    await host.consumers()
    for number in range(3):
        new = f"{number:064x}"
        host.proc.add(GPU_PID_2 + number, f"/system.slice/docker-{new}.scope")
        host.engine.states = [docker(new, pid=GPU_PID_2 + number)]
        host.hold(GPU_PID_2 + number)
        assert await host.consumers() == ["comfyui"], number


async def test_engine_is_not_asked_again_while_nothing_changes(host: Host) -> None:
    host.proc.add(GPU_PID, f"/system.slice/docker-{ID}.scope")
    host.engine.states = [docker()]
    host.configure(comfyui={"container": "comfyui"})
    for _ in range(5):
        await host.consumers()
    assert host.engine.inspected == ["comfyui"]


async def test_container_of_another_program_is_looked_at_again_ever_more_rarely(host: Host) -> None:
    host.proc.add(GPU_PID, f"/system.slice/docker-{ID}.scope")
    host.configure(comfyui={"container": "comfyui"})
    for host.now in range(300):
        await host.consumers()
    assert len(host.engine.inspected) < 12


async def test_id_prefix_needs_no_engine(host: Host) -> None:
    host.engine.failure = ContainerFailed("no engine", "unavailable")
    host.proc.add(GPU_PID, f"/docker/{ID}")
    host.configure(comfyui={"container": ID[:12]})
    assert await host.consumers() == ["comfyui"]


async def test_name_in_podmans_monitor_needs_no_engine(host: Host) -> None:
    host.engine.failure = ContainerFailed("no engine", "unavailable")
    host.proc.conmon(400, ID, "comfyui", f"/machine.slice/libpod-conmon-{ID}.scope")
    host.proc.add(4000, f"/machine.slice/libpod-{ID}.scope/container", parent=400, command="catatonit")
    host.proc.add(GPU_PID, f"/machine.slice/libpod-{ID}.scope/container", parent=4000)
    host.configure(comfyui={"container": "podman:comfyui"})
    assert await host.consumers() == ["comfyui"]


async def test_engine_prefix_distinguishes_containers_of_one_name(host: Host) -> None:
    host.proc.add(GPU_PID, f"/system.slice/docker-{ID}.scope")
    host.proc.add(GPU_PID_2, f"/machine.slice/libpod-{OTHER}.scope/container")
    host.engine.states = [docker(), ContainerState("podman", OTHER, "comfyui", True, GPU_PID_2)]
    host.hold(GPU_PID, GPU_PID_2)
    host.configure(one={"container": "docker:comfyui"}, two={"container": "podman:comfyui"})
    assert await host.consumers() == ["one", "two"]


@pytest.mark.parametrize(
    "path",
    ["/lxc.payload.comfyui/system.slice/x.service", "/lxc/comfyui/ns", "/machine.slice/machine-comfyui.scope/payload"],
)
async def test_engines_that_name_cgroups_by_name(host: Host, path: str) -> None:
    host.proc.add(GPU_PID, path)
    host.configure(comfyui={"container": "comfyui"})
    assert await host.consumers() == ["comfyui"]
    assert host.engine.inspected == []


async def test_slice_and_cgroup_pattern(host: Host) -> None:
    host.proc.add(GPU_PID, f"/llm.slice/docker-{ID}.scope")
    host.proc.add(GPU_PID_2, f"/kubepods.slice/kubepods-pod12.slice/cri-containerd-{OTHER}.scope")
    host.hold(GPU_PID, GPU_PID_2)
    host.configure(llm={"slice": "llm.slice"}, pod={"cgroup": "/kubepods.slice/**/*pod12.slice"})
    assert await host.consumers() == ["llm", "pod"]


async def test_unit_counts_before_the_slice_that_contains_it(host: Host) -> None:
    host.proc.add(GPU_PID, "/llm.slice/ollama.service")
    host.units.units = {GPU_PID: "ollama.service"}
    host.configure(llm={"slice": "llm.slice"}, ollama={"unit": "ollama.service"})
    assert await host.consumers() == ["ollama"]


async def test_two_consumers_of_one_container_share_its_memory(host: Host) -> None:
    host.proc.add(GPU_PID, f"/docker/{ID}")
    host.engine.states = [docker()]
    host.configure(one={"container": "comfyui"}, two={"container": "comfyui"})
    (process,) = (await host.source.read()).devices[0].processes
    assert (process.consumer, process.shared) == ("", ("one", "two"))


async def test_unknown_container_is_not_taken_for_zero_while_no_engine_answers(host: Host) -> None:
    host.engine.failure = ContainerFailed("no engine", "unavailable")
    host.proc.add(GPU_PID, f"/system.slice/docker-{ID}.scope")
    host.configure(comfyui={"container": "comfyui"})
    assert await host.held("comfyui") is None
    host.engine.failure = None
    host.now += 100
    assert await host.held("comfyui") == 0, "the engine has no such container"


async def test_container_stays_attributed_while_its_engine_answers_no_more(host: Host) -> None:
    host.proc.add(GPU_PID, f"/system.slice/docker-{ID}.scope")
    host.engine.states = [docker()]
    host.configure(comfyui={"container": "comfyui"})
    assert await host.consumers() == ["comfyui"]
    host.engine.failure = ContainerFailed("docker does not answer", "unavailable")
    host.proc.add(GPU_PID_2, f"/system.slice/docker-{OTHER}.scope")
    host.hold(GPU_PID, GPU_PID_2)
    assert await host.consumers() == ["comfyui", ""], "the engine was asked about a new container"


async def test_container_that_was_created_again_is_unknown_until_its_engine_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(tmp_path, monkeypatch)
    host.containers._wait_sec = 0.02
    host.hold(GPU_PID)
    host.proc.add(GPU_PID, f"/system.slice/docker-{ID}.scope")
    host.engine.states = [docker()]
    host.configure(comfyui={"container": "comfyui"})
    async with asyncio.timeout(30):
        while await host.consumers() != ["comfyui"]:
            pass
    host.engine.answering.clear()
    host.engine.states = [docker(OTHER, pid=GPU_PID_2)]
    host.proc.add(GPU_PID_2, f"/system.slice/docker-{OTHER}.scope")
    host.hold(GPU_PID_2)
    assert await host.held("comfyui") is None, "the engine has not said which container has the name now"
    host.engine.answering.set()
    async with asyncio.timeout(30):
        while await host.held("comfyui") != 5000:
            pass
    host.engine.failure = ContainerFailed("docker does not answer", "unavailable")
    host.proc.add(GPU_PID, f"/system.slice/docker-{'ab' * 32}.scope")
    host.hold(GPU_PID)
    assert await host.held("comfyui") is None, "it may have been created again"
    await host.source.close()


async def test_engine_that_hangs_delays_a_reading_only_once_and_for_a_limited_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(tmp_path, monkeypatch)
    host.containers._wait_sec = 0.02
    host.hold(GPU_PID)
    host.proc.add(GPU_PID, f"/system.slice/docker-{ID}.scope")
    host.engine.states = [docker()]
    host.engine.answering.clear()
    host.configure(comfyui={"container": "comfyui"})
    async with asyncio.timeout(30):
        assert await host.consumers() == [""]
        assert await host.held("comfyui") is None
        host.engine.answering.set()
        while await host.consumers() != ["comfyui"]:
            pass
    await host.source.close()


async def test_process_that_proc_hides_leaves_containers_unknown(host: Host) -> None:
    host.configure(comfyui={"container": "comfyui"}, llm={"slice": "llm.slice"})
    assert await host.held("comfyui") is None
    assert await host.held("llm") is None


async def test_row_of_a_whole_unit_is_attributed_by_the_name_of_its_scope(host: Host) -> None:
    host.proc.add(50, f"/system.slice/docker-{ID}.scope")
    host.engine.states = [docker(pid=50)]
    host.vram.uses = (ProcessUse(0, 7000, unit=f"docker-{ID}.scope"),)
    host.configure(comfyui={"container": "comfyui"})
    assert await host.held("comfyui") == 7000
