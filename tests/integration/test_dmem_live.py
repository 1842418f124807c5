"""The real daemon on a fake host with an Intel card, whose memory only the kernel's dmem controller shows."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest

from gpumand.testing.host_tree import ARC_B580, HostTree
from tests.integration.card_host import CONNECTION, CardHost, announced_mib, card_host
from tests.integration.live import wait_until

MIB = 1 << 20
REGION = "drm/0000:03:00.0/vram0"
SIZES = {"image": 8000, "voice": 6000}
TOTAL_MIB = 12216
DESKTOP_MIB = 900
MANAGER = "user.slice/user-1000.slice/user@1000.service"

IntelHost: TypeAlias = "CardHost[DmemKernel]"


@dataclass
class DmemKernel:
    """Shows the memory that consumer processes announce as the dmem controller does: by cgroup, without pids."""

    tree: HostTree
    announced: Path
    is_enabled: bool = True

    def __post_init__(self) -> None:
        self.tree.add_card(ARC_B580)
        self.tree.write("/sys/fs/cgroup/dmem.capacity", f"{REGION} {TOTAL_MIB * MIB}\n")
        self.show()

    def show(self) -> None:
        held_mib = sum(announced_mib(self.announced).values())
        self.current("", held_mib + DESKTOP_MIB)
        if not self.is_enabled:
            return
        for folder in ("user.slice", "user.slice/user-1000.slice", MANAGER):
            self.current(folder, DESKTOP_MIB)
        self.current("system.slice", held_mib)
        self.current("system.slice/servers.service", held_mib)

    def current(self, folder: str, mib: int) -> None:
        self.tree.write(f"/sys/fs/cgroup/{folder}/dmem.current", f"{REGION} {mib * MIB}\n")


def intel_host(folder: Path, *, is_enabled: bool = True) -> AbstractAsyncContextManager[IntelHost]:
    return card_host(folder, SIZES, partial(DmemKernel, is_enabled=is_enabled))


@pytest.mark.parametrize("is_enabled", [True, False])
async def test_a_consumer_is_evicted_from_an_intel_card_and_the_card_shows_its_memory_free(
    tmp_path: Path, is_enabled: bool
) -> None:
    async with intel_host(tmp_path, is_enabled=is_enabled) as setup:
        device = await setup.device()
        assert (device["source"], device["uuid"], device["total_mib"]) == ("xe", "PCI-0000:03:00.0", TOTAL_MIB)
        assert device["attribution"] == ("dmem" if is_enabled else "")
        await setup.use("image")

        _, grant = await setup.client.acquire("voice", lifetime=CONNECTION)

        assert grant["evicted"] == ["image"]
        [(name, _, freed_mib, _, _, details)] = setup.client.received("EvictionOccurred")
        assert (name, details["verified"]) == ("image", True)
        assert freed_mib >= SIZES["image"] - 1024


async def test_units_of_no_consumer_are_listed_as_a_whole(tmp_path: Path) -> None:
    async with intel_host(tmp_path) as setup:
        await wait_until("the desktop is listed", _lists_desktop, setup)


async def _lists_desktop(setup: IntelHost) -> bool:
    foreign = [(one["pid"], one["unit"], one["used_mib"]) for one in (await setup.device())["foreign"]]
    return foreign == [(0, "user@1000.service", DESKTOP_MIB)]
