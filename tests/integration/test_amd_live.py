"""The real daemon on a fake host with an AMD card: two consumers that do not fit together, and misleading readings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from gpumand.testing.host_tree import RX7900XTX, STRIX_HALO, FakeCard, HostTree, mixed_igpu
from tests.integration.card_host import CONNECTION, CardHost, announced_mib, card_host
from tests.integration.live import Client, bare_host, error_of, table, wait_until
from tests.integration.shim_driver import Driver
from tests.shim import build_shim, have_compiler

MIB = 1 << 20
SIZES = {"image": 14000, "voice": 12000}
KFD_ID = 38924
OTHERS_MIB = 1600
"""Memory of the desktop, which KFD does not list."""

AmdHost: TypeAlias = "CardHost[AmdKernel]"


@dataclass
class AmdKernel:
    """Shows the memory that consumer processes announce as amdgpu and KFD do."""

    tree: HostTree
    card: FakeCard
    announced: Path
    location_id: int
    used_file: str = "mem_info_vram_used"
    others_mib: int = OTHERS_MIB
    suspended: bool = False
    lists_processes: bool = True

    def __post_init__(self) -> None:
        self.folder = self.tree.add_card(self.card)
        if self.lists_processes:
            node = {"location_id": self.location_id, "domain": 0, "drm_render_minor": 128}
            self.tree.add_kfd_node(1, KFD_ID, node)
        self.tree.meminfo(130986440, 97517568)
        self.shown: set[int] = set()
        self.show()

    def show(self) -> None:
        """Write the files as the driver would show them now."""
        held = announced_mib(self.announced)
        for pid in self.shown - held.keys() if self.lists_processes else ():
            self.tree.kfd_gone(pid)
        for pid, mib in held.items() if self.lists_processes else ():
            self.tree.kfd_use(pid, KFD_ID, mib * MIB)
        self.shown = set(held)
        used_mib = 5 if self.suspended else sum(held.values()) + self.others_mib
        self.tree.write(f"{self.folder}/power/runtime_status", "suspended\n" if self.suspended else "active\n")
        self.tree.write(f"{self.folder}/{self.used_file}", used_mib * MIB)


def amd_host(folder: Path, card: FakeCard, location_id: int, **kernel: Any) -> AbstractAsyncContextManager[AmdHost]:
    def kernel_of(tree: HostTree, announced: Path) -> AmdKernel:
        return AmdKernel(tree, card, announced, location_id, **kernel)

    return card_host(folder, SIZES, kernel_of)


@pytest.fixture
async def radeon(tmp_path: Path) -> AsyncIterator[AmdHost]:
    async with amd_host(tmp_path, RX7900XTX, 768) as setup:
        yield setup


@pytest.fixture
async def strix(tmp_path: Path) -> AsyncIterator[AmdHost]:
    async with amd_host(tmp_path, STRIX_HALO, 50688, used_file="mem_info_gtt_used") as setup:
        yield setup


async def test_a_consumer_is_evicted_from_an_amd_card_and_the_card_shows_its_memory_free(radeon: AmdHost) -> None:
    device = await radeon.device()
    assert (device["source"], device["uuid"], device["total_mib"]) == ("amdgpu", "AMD-5e1f0c3a9b7d2468", 24560)
    assert (device["pool"], device["attribution"], device["integrated"]) == ("vram", "kfd", False)
    assert device["aliases"] == ["0000:03:00.0", "PCI-0000:03:00.0"]
    assert (await radeon.use("image"))["evicted"] == []
    await wait_until("the reading shows the model", _uses, radeon, SIZES["image"] + OTHERS_MIB)

    grant = await radeon.use("voice")

    assert grant["evicted"] == ["image"]
    [(name, _, freed_mib, method, _, details)] = radeon.client.received("EvictionOccurred")
    assert (name, method, details["verified"]) == ("image", "http", True)
    assert freed_mib >= SIZES["image"] - 1024
    await wait_until("the reading shows the other model", _uses, radeon, SIZES["voice"] + OTHERS_MIB)
    assert [process["pid"] for process in (await radeon.device())["foreign"]] == list(radeon.kernel.shown)
    assert "GPUs are read by: amdgpu" in radeon.host.log


async def test_the_device_can_be_requested_by_its_pci_address(radeon: AmdHost) -> None:
    _, grant = await radeon.client.acquire("image", lifetime=CONNECTION, device=("s", "0000:03:00.0"))
    assert grant["device"] == "0"
    error = await error_of(radeon.client.acquire("voice", device=("s", "0000:09:00.0")))
    assert error.name.endswith(".NoSuchDevice")


async def test_an_unload_on_a_sleeping_card_is_not_believed(tmp_path: Path) -> None:
    """The card shows 5 MiB in use, because the driver has moved the model to host RAM; Vulkan lists no processes."""
    async with amd_host(tmp_path, RX7900XTX, 768, lists_processes=False) as vulkan:
        await vulkan.use("image")
        vulkan.kernel.suspended = True
        await wait_until("the card is asleep", _is_asleep, vulkan)
        assert (await vulkan.device())["free_mib"] > SIZES["voice"]

        error = await error_of(vulkan.client.acquire("voice", timeout_usec=("t", 20_000_000)))

        assert error.name.endswith(".EvictionFailed"), error
        assert "no reading can show that it released its memory" in vulkan.host.log
        assert vulkan.client.received("EvictionOccurred") == []


async def test_a_card_whose_files_hang_is_reported_and_calls_are_answered(tmp_path: Path) -> None:
    async with amd_host(tmp_path, RX7900XTX, 768) as setup:
        path = f"{setup.kernel.folder}/mem_info_gtt_used"
        setup.kernel.tree.fifo(path)
        await wait_until("the hang is reported", _degraded_by, setup, "sysfs-hangs")
        async with asyncio.timeout(4):
            await setup.client.status()
        setup.kernel.tree.release(path)
        setup.kernel.tree.write(path, 0)
        await wait_until("readings are back", _degraded_by, setup, "")


async def test_a_model_in_host_ram_is_bounded_by_what_the_host_has_left(strix: AmdHost) -> None:
    device = await strix.device()
    assert (device["pool"], device["integrated"], device["total_mib"]) == ("unified", True, 122880)
    assert (await strix.use("image"))["evicted"] == []
    strix.kernel.tree.meminfo(130986440, 15_000 * 1024)
    await wait_until("the reading shows the shortage", _frees_at_most, strix, 15_000 - 4096)

    # 10,904 MiB are left above the reserve: the other model fits only if this one goes, and RAM rises with it.
    freeing = asyncio.create_task(_raise_ram(strix, 30_000 * 1024))
    grant = await strix.use("voice")
    await freeing

    assert grant["evicted"] == ["image"]


async def _raise_ram(setup: AmdHost, available_kib: int) -> None:
    """Host RAM becomes available when the model has left the process."""
    async with asyncio.timeout(20):
        while setup.kernel.shown:  # noqa: ASYNC110 - the state of another process
            await asyncio.sleep(0.01)
    setup.kernel.tree.meminfo(130986440, available_kib)


async def _uses(setup: AmdHost, mib: int) -> bool:
    return bool((await setup.device()).get("used_mib") == mib)


async def _frees_at_most(setup: AmdHost, mib: int) -> bool:
    return int((await setup.device())["free_mib"]) <= mib


async def _is_asleep(setup: AmdHost) -> bool:
    return bool((await setup.device())["asleep"])


async def _degraded_by(setup: AmdHost, word: str) -> bool:
    return str((await setup.client.status())["degraded"]).partition(":")[0] == word


async def test_a_host_without_a_gpu_says_once_how_to_have_loads_checked(tmp_path: Path) -> None:
    async with bare_host(tmp_path) as host:
        await host.launch("image", 14000, "--load-sec", "0.05")
        empty = str(tmp_path / "empty")
        host.environ = {"GPUMAND_HOST_ROOT": empty, "LD_LIBRARY_PATH": empty}
        host.configure(table(host.consumers["image"], 14000), gpu="sample_interval_sec = 0.1")
        await host.start()
        client = await host.client()
        _, grant = await client.acquire("image", lifetime=CONNECTION)
        assert grant["loaded"]
        readings = [await _sampled(client) for _ in range(2)]
        await wait_until("several readings were taken", _sampled_after, client, readings[-1])
        status = await client.status()
        assert status["degraded"].startswith("no-source: ")
        assert "set [gpu] total_mib" in status["degraded"]
        warnings = [line for line in host.log.splitlines() if " WARNING degraded: no-source" in line]
        assert len(warnings) == 1, host.log
        await client.close()


async def _sampled(client: Client) -> int:
    return int((await client.status())["devices"][0]["sampled_usec"])


async def _sampled_after(client: Client, usec: int) -> bool:
    return await _sampled(client) > usec + 500_000


@pytest.mark.skipif(not have_compiler(), reason="gcc is not installed, so the fake NVML cannot be built")
async def test_beside_an_nvidia_card_the_processors_gpu_is_used_only_by_name(tmp_path: Path) -> None:
    async with bare_host(tmp_path) as host:
        for name, mib in SIZES.items():
            await host.launch(name, mib, "--load-sec", "0.05", "--unload-sec", "0.02")
        tree = mixed_igpu(HostTree(tmp_path / "root"))
        tree.write("/proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06\n")
        tree.write("/proc/driver/nvidia/gpus/0000:01:00.0/information", "GPU UUID: \t GPU-a\n")
        host.environ = Driver(host).environment(build_shim(tmp_path / "nvml")) | {"GPUMAND_HOST_ROOT": str(tree.root)}
        tables = "".join(table(host.consumers[name], mib) for name, mib in SIZES.items())
        host.configure(tables, gpu="sample_interval_sec = 0.2")
        await host.start()
        client = await host.client()
        card, igpu = (await client.status())["devices"]
        assert (card["index"], card["uuid"], card["source"], card["aliases"][0]) == (0, "GPU-a", "nvml", "0000:01:00.0")
        assert (igpu["index"], igpu["source"], igpu["integrated"]) == (10000, "amdgpu", True)
        assert igpu["free_mib"] > card["free_mib"]

        first, grant = await client.acquire("image", lifetime=CONNECTION)
        assert grant["device"] == "0"
        await client.release(first)
        # Both fit on the processor's GPU, but a CUDA program cannot run there: one is evicted from the card instead.
        second, grant = await client.acquire("voice", lifetime=CONNECTION)
        assert (grant["device"], grant["evicted"]) == ("0", ["image"])
        await client.release(second)
        await client.call("Evict", "sa{sv}", "voice", {})

        # The driver of the card fails: nothing moves to the other GPU.
        (tmp_path / "shim.txt").write_text("")
        error = await error_of(client.acquire("image", timeout_usec=("t", 3_000_000)))
        assert error.name.endswith((".DeviceUnavailable", ".TimedOut")), error
        host_devices = (await client.status())["devices"]
        assert [one["index"] for one in host_devices] == [0, 10000]
        assert host_devices[1]["error"] == ""
        await client.close()
