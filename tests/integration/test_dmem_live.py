"""The real daemon on a fake host with an Intel card, whose memory only the kernel's dmem controller shows."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gpumand.testing.host_tree import ARC_B580, HostTree
from tests.integration.live import Client, LiveHost, bare_host, table, wait_until

MIB = 1 << 20
REGION = "drm/0000:03:00.0/vram0"
SIZES = {"image": 8000, "voice": 6000}
TOTAL_MIB = 12216
DESKTOP_MIB = 900
CONNECTION = ("s", "connection")
MANAGER = "user.slice/user-1000.slice/user@1000.service"


@dataclass
class FakeKernel:
    """Shows the memory that consumer processes announce as the dmem controller does: by cgroup, without pids."""

    tree: HostTree
    announced: Path
    is_enabled: bool = True

    def __post_init__(self) -> None:
        self.tree.add_card(ARC_B580)
        self.tree.write("/sys/fs/cgroup/dmem.capacity", f"{REGION} {TOTAL_MIB * MIB}\n")
        self.show()

    def show(self) -> None:
        held = {file.name: _mib(file) for file in self.announced.iterdir() if file.name.isdigit()}
        self.current("", sum(held.values()) + DESKTOP_MIB)
        if not self.is_enabled:
            return
        for folder in ("user.slice", "user.slice/user-1000.slice", MANAGER):
            self.current(folder, DESKTOP_MIB)
        self.current("system.slice", sum(held.values()))
        self.current("system.slice/servers.service", sum(held.values()))

    def current(self, folder: str, mib: int) -> None:
        self.tree.write(f"/sys/fs/cgroup/{folder}/dmem.current", f"{REGION} {mib * MIB}\n")

    async def run(self) -> None:
        while True:
            self.show()
            await asyncio.sleep(0.01)


def _mib(file: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return int(json.loads(file.read_text())["mib"])
    return 0


@dataclass
class _Setup:
    host: LiveHost
    client: Client

    async def device(self) -> dict[str, Any]:
        [entry] = (await self.client.status())["devices"]
        return dict(entry)


@contextlib.asynccontextmanager
async def intel_host(folder: Path, **kernel: Any) -> AsyncIterator[_Setup]:
    async with bare_host(folder) as host:
        for name, mib in SIZES.items():
            await host.launch(name, mib, "--load-sec", "0.05", "--unload-sec", "0.02")
        fake = FakeKernel(HostTree(folder / "root"), host.simulator, **kernel)
        host.environ = {"GPUMAND_HOST_ROOT": str(fake.tree.root)}
        tables = "".join(table(host.consumers[name], mib) for name, mib in SIZES.items())
        host.configure(tables, "concurrent_leases = 0\nsettle_timeout_sec = 1", "sample_interval_sec = 0.2")
        running = asyncio.create_task(fake.run())
        await host.start()
        client = await host.client(listen=True)
        try:
            yield _Setup(host, client)
        finally:
            running.cancel()
            await client.close()
    assert "Traceback" not in host.log, host.log[-4000:]


@pytest.mark.parametrize("is_enabled", [True, False])
async def test_a_consumer_is_evicted_from_an_intel_card_and_the_card_shows_its_memory_free(
    tmp_path: Path, is_enabled: bool
) -> None:
    async with intel_host(tmp_path, is_enabled=is_enabled) as setup:
        device = await setup.device()
        assert (device["source"], device["uuid"], device["total_mib"]) == ("xe", "PCI-0000:03:00.0", TOTAL_MIB)
        assert device["attribution"] == ("dmem" if is_enabled else "")
        lease, _ = await setup.client.acquire("image", lifetime=CONNECTION)
        await setup.client.release(lease)

        _, grant = await setup.client.acquire("voice", lifetime=CONNECTION)

        assert grant["evicted"] == ["image"]
        [(name, _, freed_mib, _, _, details)] = setup.client.received("EvictionOccurred")
        assert (name, details["verified"]) == ("image", True)
        assert freed_mib >= SIZES["image"] - 1024


async def test_units_of_no_consumer_are_listed_as_a_whole(tmp_path: Path) -> None:
    async with intel_host(tmp_path) as setup:
        await wait_until("the desktop is listed", _lists_desktop, setup)


async def _lists_desktop(setup: _Setup) -> bool:
    foreign = [(one["pid"], one["unit"], one["used_mib"]) for one in (await setup.device())["foreign"]]
    return foreign == [(0, "user@1000.service", DESKTOP_MIB)]
