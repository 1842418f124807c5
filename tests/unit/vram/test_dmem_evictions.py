"""What a reading by dmem proves about an eviction, from the kernel's files to the check."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.device import Sample
from gpumand.domain.eviction_check import EvictionCheck
from gpumand.host.clock import SystemClock
from gpumand.testing.host_tree import ARC_B580, HostTree
from gpumand.vram.amdgpu import AmdgpuSource
from gpumand.vram.attribution import AttributedSource
from gpumand.vram.xe import XeSource
from tests.unit.vram.attribution_setup import Systemd
from tests.unit.vram.dmem_trees import ARC, MIB, RADEON, Dmem, rx7900xtx_dmem, strix_halo_dmem

UNITS = {"plain.service": "plain", "llama@a.service": "llama"}
SLICE = "system.slice/system-llama.slice"
HELD_MIB = 8000
TOTAL_MIB = 12216


class Host:
    """A host with an Intel card, on which one unit holds memory."""

    def __init__(self, tree: HostTree) -> None:
        self.dmem = Dmem(tree)
        self.source = AttributedSource(XeSource(SystemClock(), tree.root), Systemd({}))
        self.source.set_units(UNITS)
        tree.add_card(ARC_B580)
        self.dmem.capacity({ARC: TOTAL_MIB * MIB})

    def use(self, device_mib: int, **cgroups: int) -> None:
        """Set the use of the device, and of the given cgroups."""
        self.dmem.current("", {ARC: device_mib * MIB})
        for cgroup, mib in cgroups.items():
            self.dmem.current(cgroup, {ARC: mib * MIB})

    def remove(self, cgroup: str) -> None:
        shutil.rmtree(self.dmem.tree.path(f"/sys/fs/cgroup/{cgroup}"))

    async def sample(self) -> Sample:
        [sample] = (await self.source.read()).devices
        return sample


@pytest_asyncio.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    host = Host(HostTree(tmp_path))
    yield host
    await host.source.close()


def check(before: Sample, name: str) -> EvictionCheck:
    return EvictionCheck(ConsumerSpec(name, HELD_MIB), before, before.held_by(name), HELD_MIB)


async def test_unit_that_is_counted_is_evicted_when_its_own_amount_is_gone(host: Host) -> None:
    host.use(8200, **{"system.slice": HELD_MIB, "system.slice/plain.service": HELD_MIB})
    eviction = check(await host.sample(), "plain")
    assert eviction.held_before_mib == HELD_MIB
    host.remove("system.slice/plain.service")
    assert not eviction.settled(await host.sample()), "the slice still holds the memory"
    host.use(200, **{"system.slice": 0})
    assert eviction.settled(await host.sample())


async def test_small_model_that_stays_in_the_slice_of_a_stopped_unit_is_not_released(host: Host) -> None:
    host.use(600, **{"system.slice": 400, "system.slice/plain.service": 400})
    eviction = check(await host.sample(), "plain")
    host.remove("system.slice/plain.service")
    after = await host.sample()
    assert not eviction.released_by_processes(after)
    host.use(200, **{"system.slice": 0})
    assert eviction.released_by_processes(await host.sample())


async def test_memory_of_a_former_session_does_not_hide_that_a_unit_holds_nothing(host: Host) -> None:
    host.use(8200, **{"system.slice": HELD_MIB, "system.slice/plain.service": HELD_MIB, "user.slice": 150})
    host.use(8200, **{"user.slice/user-1000.slice": 0})
    assert (await host.sample()).held_by("llama") == 0


async def test_absence_of_a_template_unit_verifies_nothing(host: Host) -> None:
    host.use(8200, **{"system.slice": HELD_MIB, SLICE: HELD_MIB})
    host.dmem.without_file(f"{SLICE}/llama@a.service")
    before = await host.sample()
    eviction = check(before, "llama")
    assert (set(before.blind), eviction.held_before_mib) == ({"llama@a.service"}, None)
    host.remove(f"{SLICE}/llama@a.service")  # stopped; its memory stays
    after = await host.sample()
    assert not eviction.settled(after)
    assert not eviction.released_by_processes(after)
    host.use(200, **{"system.slice": 0, SLICE: 0})
    assert eviction.settled(await host.sample())


async def test_unit_that_allocated_before_the_controller_was_enabled_is_not_taken_for_empty(host: Host) -> None:
    host.dmem.enabled_at(1000)
    host.dmem.process(10, "system.slice/plain.service", 900)
    host.use(8200, **{"system.slice": 0, "system.slice/plain.service": 0})
    before = await host.sample()
    assert before.held_by("plain") is None
    assert not check(before, "plain").released_by_processes(before)


async def test_part_of_a_unit_that_is_counted_does_not_verify_the_whole(host: Host) -> None:
    host.dmem.enabled_at(1000)
    host.dmem.process(10, "system.slice/plain.service", 900)
    host.use(8200, **{"system.slice": 100, "system.slice/plain.service": 100})
    eviction = check(await host.sample(), "plain")
    assert eviction.held_before_mib == 100
    host.use(8100, **{"system.slice": 0, "system.slice/plain.service": 0})
    assert not eviction.settled(await host.sample())


async def test_other_consumers_are_known_to_hold_nothing(host: Host) -> None:
    host.use(8200, **{"system.slice": HELD_MIB, "system.slice/plain.service": HELD_MIB})
    sample = await host.sample()
    assert (sample.held_by("plain"), sample.held_by("llama")) == (HELD_MIB, 0)


# -- consumers that are found by container or slice --------------------------------------------------------------------

CONTAINER_ID = "0123456789ab" + "c" * 52
JOBS, WEB = ConsumerSpec("jobs", 1000, slice="ai-jobs.slice"), ConsumerSpec("web", 1000, container=CONTAINER_ID[:12])


async def held(host: Host) -> dict[str, int | None]:
    sample = await host.sample()
    return {name: sample.held_by(name) for name in ("jobs", "web", "plain")}


async def test_whole_units_are_found_by_container_and_slice(host: Host) -> None:
    host.source.containers.configure([JOBS, WEB])
    host.use(5000, **{"ai.slice": 3000, "ai.slice/ai-jobs.slice": 3000, "system.slice": 1800})
    host.dmem.current("ai.slice/ai-jobs.slice/run-1.scope", {ARC: 3000 * MIB})
    host.dmem.current(f"system.slice/docker-{CONTAINER_ID}.scope", {ARC: 1800 * MIB})
    assert await held(host) == {"jobs": 3000, "web": 1800, "plain": 0}


async def test_container_that_is_not_counted_is_not_taken_for_empty(host: Host) -> None:
    host.source.containers.configure([JOBS, WEB])
    host.use(5000, **{"system.slice": 4800})
    host.dmem.without_file(f"system.slice/docker-{CONTAINER_ID}.scope")
    host.dmem.current("system.slice/plain.service", {ARC: 4800 * MIB})
    assert await held(host) == {"jobs": 0, "web": None, "plain": 4800}


async def test_container_of_an_engine_without_systemd_is_found_and_not_taken_for_empty(host: Host) -> None:
    host.source.containers.configure([JOBS, WEB])
    host.use(5000, docker=1800)
    host.dmem.current(f"docker/{CONTAINER_ID}", {ARC: 1800 * MIB})
    host.use(5000, **{"system.slice": 3000, "system.slice/plain.service": 3000})
    assert await held(host) == {"jobs": 0, "web": 1800, "plain": 3000}
    host.dmem.without_file(f"docker/{CONTAINER_ID}")
    assert (await held(host))["web"] is None


async def test_unit_that_is_not_counted_may_be_in_the_slice_of_a_consumer(host: Host) -> None:
    host.source.containers.configure([JOBS, WEB])
    host.use(5000, **{"system.slice": 4800, "system.slice/plain.service": 4800})
    host.dmem.without_file("system.slice/other.service")
    assert await held(host) == {"jobs": None, "web": 0, "plain": 4800}


# -- AMD cards, whose ROCm processes are known as well -----------------------------------------------------------------


async def test_unit_of_a_radeon_holds_the_larger_of_kfd_and_dmem_and_not_the_sum(tmp_path: Path) -> None:
    tree = HostTree(tmp_path)
    dmem = rx7900xtx_dmem(tree)
    source = AttributedSource(AmdgpuSource(SystemClock(), tmp_path), Systemd({4711: "ollama.service"}))
    source.set_units({"ollama.service": "ollama", "vulkan.service": "vulkan"})
    for held_mib, kfd_mib in ((13210, 13100), (13000, 13100)):
        for folder in ("system.slice", "system.slice/ollama.service"):
            dmem.current(folder, {RADEON: held_mib * MIB})
        [sample] = (await source.read()).devices
        assert sample.held_by("ollama") == max(held_mib, kfd_mib)
        assert sum(one.used_mib or 0 for one in sample.processes) == max(held_mib, kfd_mib) + 1410
        assert (sample.attribution, sample.held_by("vulkan")) == ("dmem", 0)
    await source.close()


async def test_memory_of_vulkan_on_a_radeon_is_seen_by_dmem_only(tmp_path: Path) -> None:
    tree = HostTree(tmp_path)
    dmem = rx7900xtx_dmem(tree)
    tree.kfd_gone(4711)
    source = AttributedSource(AmdgpuSource(SystemClock(), tmp_path), Systemd({}))
    source.set_units({"ollama.service": "ollama"})
    [sample] = (await source.read()).devices
    assert (sample.held_by("ollama"), sample.attributed) == (13210, True)
    dmem.without_file("system.slice/ollama.service")
    [sample] = (await source.read()).devices
    assert sample.held_by("ollama") is None
    await source.close()


async def test_carve_out_of_an_integrated_gpu_is_not_attributed_by_dmem(tmp_path: Path) -> None:
    tree = HostTree(tmp_path)
    strix_halo_dmem(tree)
    source = AttributedSource(AmdgpuSource(SystemClock(), tmp_path), Systemd({5200: "llama@qwen.service"}))
    source.set_units({"llama@qwen.service": "llama"})
    [sample] = (await source.read()).devices
    assert (sample.attribution, sample.held_by("llama")) == ("kfd", 24666)
    await source.close()
