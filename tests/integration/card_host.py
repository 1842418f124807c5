"""The real daemon on a fake host with one card, whose memory its driver shows in files."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from gpumand.testing.host_tree import HostTree
from tests.integration.live import Client, LiveHost, bare_host, table

CONNECTION = ("s", "connection")
SHOW_SEC = 0.01


class FakeKernel(Protocol):
    """What the kernel and the driver of a card show in files."""

    tree: HostTree

    def show(self) -> None:
        """Write the files as the driver would show them now."""


Kernel = TypeVar("Kernel", bound=FakeKernel)


def announced_mib(folder: Path) -> dict[int, int]:
    """The memory in MiB that consumer processes announce in a folder, by pid."""
    return {int(file.name): _mib(file) for file in folder.iterdir() if file.name.isdigit()}


def _mib(file: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return int(json.loads(file.read_text())["mib"])
    return 0


@dataclass
class CardHost(Generic[Kernel]):
    """A running daemon with a client, and the kernel that shows it the card."""

    host: LiveHost
    kernel: Kernel
    client: Client

    async def device(self) -> dict[str, Any]:
        [entry] = (await self.client.status())["devices"]
        return dict(entry)

    async def use(self, name: str) -> dict[str, Any]:
        """Acquire a consumer and release it, so that it stays loaded."""
        lease, grant = await self.client.acquire(name, lifetime=CONNECTION)
        await self.client.release(lease)
        return grant


@contextlib.asynccontextmanager
async def card_host(
    folder: Path, sizes: Mapping[str, int], kernel_of: Callable[[HostTree, Path], Kernel]
) -> AsyncIterator[CardHost[Kernel]]:
    """Run consumers and a daemon that finds the card itself: no source is configured.

    Args:
        folder: files of the test.
        sizes: MiB that each consumer takes when loaded, by name.
        kernel_of: makes the kernel of a file tree and the folder in which consumers announce their memory.
    """
    async with bare_host(folder) as host:
        for name, mib in sizes.items():
            await host.launch(name, mib, "--load-sec", "0.05", "--unload-sec", "0.02")
        kernel = kernel_of(HostTree(folder / "root"), host.simulator)
        host.environ = {"GPUMAND_HOST_ROOT": str(kernel.tree.root)}
        tables = "".join(table(host.consumers[name], mib) for name, mib in sizes.items())
        host.configure(tables, "concurrent_leases = 0\nsettle_timeout_sec = 1", "sample_interval_sec = 0.2")
        running = asyncio.create_task(_keep_shown(kernel))
        await host.start()
        client = await host.client(listen=True)
        try:
            yield CardHost(host, kernel, client)
        finally:
            running.cancel()
            await client.close()
    assert "Traceback" not in host.log, host.log[-4000:]


async def _keep_shown(kernel: FakeKernel) -> None:
    while True:
        kernel.show()
        await asyncio.sleep(SHOW_SEC)
