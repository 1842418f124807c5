"""A host with a fake /proc and a fake engine, for tests of the attribution of containers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.container import ContainerState
from gpumand.domain.device import Devices, ProcessUse, Reading, Sample
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


@contextlib.asynccontextmanager
async def running_host(
    folder: Path, monkeypatch: pytest.MonkeyPatch, manager_uid: int | None = None
) -> AsyncIterator[Host]:
    """A host on which one process uses the GPU."""
    host = Host(folder, monkeypatch, manager_uid)
    host.hold(GPU_PID)
    yield host
    await host.source.close()


def docker(container_id: str = ID, name: str = "comfyui", pid: int = GPU_PID) -> ContainerState:
    return ContainerState("docker", container_id, name, running=True, pid=pid)
