"""Attribution of processes in containers: by configuration, by the engine, and by the unit that started them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
import pytest_asyncio

from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.container import ContainerState
from gpumand.domain.device import Devices, ProcessUse, Reading, Sample
from gpumand.ports import ContainerFailed
from gpumand.testing.containers import FakeContainers
from gpumand.vram.attribution import AttributedSource
from gpumand.vram.container_attribution import ContainerAttribution
from gpumand.vram.container_places import PlaceReader
from tests.unit.vram.proc_tree import ProcTree

ID, OTHER = "3f1c" * 16, "77aa" * 16
GPU_PID, GPU_PID_2 = 4001, 4002
UNIT = "/system.slice/comfyui.service"
USER = "/user.slice/user-1000.slice/user@1000.service"
TICKS = os.sysconf("SC_CLK_TCK")


class Units:
    """systemd, which knows the units of processes outside of containers, and the scopes of containers."""

    def __init__(self) -> None:
        self.units: dict[int, str] = {}

    async def unit_of_pid(self, pid: int) -> str:
        return self.units.get(pid, "some.scope")


class Vram:
    """A source with one device and a complete list of processes."""

    name = "fake"

    def __init__(self) -> None:
        self.uses: tuple[ProcessUse, ...] = ()

    async def read(self, only: Devices = ()) -> Reading:
        sample = Sample(0, "GPU-0", "fake", "fake", 24000, 10000, 14000, self.uses, attributed=True)
        return Reading((sample,))

    def reopen(self) -> None:
        pass

    async def close(self) -> None:
        pass


class Host:
    """The source under test on a host with a fake /proc."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, manager_uid: int | None = None) -> None:
        self.proc = ProcTree(folder)
        self.engine = FakeContainers()
        self.units = Units()
        self.now = 0.0
        self.commands: dict[str, str] = {}
        reader = PlaceReader(folder, uid=500)
        monkeypatch.setattr("gpumand.vram.attribution.start_ticks", reader.started)
        self.containers = ContainerAttribution(
            self.engine,
            reader,
            start_commands=self.start_commands,
            manager_uid=manager_uid,
            wait_sec=5,
            monotonic=lambda: self.now,
        )
        self.vram = Vram()
        self.source = AttributedSource(self.vram, self.units, containers=self.containers)

    async def start_commands(self, unit: str) -> list[list[str]]:
        return [self.commands[unit].split()] if unit in self.commands else []

    def configure(self, **consumers: Mapping[str, str]) -> None:
        specs = [ConsumerSpec(name, 1000, **keys) for name, keys in consumers.items()]  # type: ignore[arg-type]
        by_unit = {spec.unit: spec.name for spec in specs if spec.unit}
        self.source.set_units(by_unit)
        self.containers.configure(specs)

    def hold(self, *pids: int) -> None:
        self.vram.uses = tuple(ProcessUse(pid, 5000, "python3") for pid in pids)

    async def consumers(self) -> list[str]:
        return [one.consumer for one in (await self.source.read()).devices[0].processes]

    async def held(self, consumer: str) -> int | None:
        return (await self.source.read()).devices[0].held_by(consumer)


@pytest_asyncio.fixture
async def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    host = Host(tmp_path, monkeypatch)
    host.hold(GPU_PID)
    yield host
    await host.source.close()


@pytest_asyncio.fixture
async def user_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    host = Host(tmp_path, monkeypatch, manager_uid=1000)
    host.hold(GPU_PID)
    yield host
    await host.source.close()


def docker(container_id: str = ID, name: str = "comfyui", pid: int = GPU_PID) -> ContainerState:
    return ContainerState("docker", container_id, name, running=True, pid=pid)


async def test_container_that_the_engine_knows_by_name(host: Host) -> None:
    host.proc.add(GPU_PID, f"/system.slice/docker-{ID}.scope")
    host.engine.states = [docker()]
    host.configure(comfyui={"container": "comfyui"})
    assert await host.consumers() == ["comfyui"]
    (process,) = (await host.source.read()).devices[0].processes
    assert process.container == "comfyui"


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
    async with asyncio.timeout(3):
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


# -- what users can fake ---------------------------------------------------------------------------------------------


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
