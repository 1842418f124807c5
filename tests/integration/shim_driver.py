"""The real daemon on the fake NVML: its text file, and a host with consumers whose memory the fake driver lists."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gpumand.bus import names
from tests.integration.live import Client, LiveHost, bare_host, status_answers_fast, table
from tests.shim import build_shim, have_compiler, shim_environment
from tests.shim.shimfile import Shim, ShimDevice

TOTAL_MIB = 24576
SIZES = {"image": 14000, "voice": 12000}
NVML = f'source = "nvml"\nsample_interval_sec = 0.2\ntotal_mib = {TOTAL_MIB}'


class Driver:
    """The driver shim and the text file that controls it."""

    def __init__(self, host: LiveHost) -> None:
        self._text = host.folder / "shim.txt"
        self._device = ShimDevice("GPU-a", total_mib=TOTAL_MIB, processes_in=host.simulator)
        self.shim = Shim(devices=[self._device])
        self.gate = host.folder / "gate"
        self.write()

    def environment(self, library: Path) -> dict[str, str]:
        return shim_environment(library, self._text)

    def write(self, **changes: Any) -> None:
        """Change the behaviour of the library or its device, with immediate effect."""
        for key, value in changes.items():
            setattr(self.shim if hasattr(self.shim, key) else self._device, key, value)
        self.shim.write(self._text)

    def hang(self) -> None:
        self.gate.touch()
        self.write(hang_in="memory", hang_while=self.gate)


def built_library(folders: pytest.TempPathFactory) -> Path:
    """Build the fake library in a new folder; skips the test where there is no compiler."""
    if not have_compiler():
        pytest.skip("gcc is not installed, so the fake NVML cannot be built")
    return build_shim(folders.mktemp("nvml"))


@contextlib.asynccontextmanager
async def host_with_consumers(folder: Path) -> AsyncIterator[LiveHost]:
    """A host with two consumers that do not fit together, and without a daemon."""
    async with bare_host(folder) as host:
        for name, mib in SIZES.items():
            await host.launch(name, mib, "--load-sec", "0.05", "--unload-sec", "0.02")
        yield host


@contextlib.asynccontextmanager
async def daemon(
    host: LiveHost, gpu: str = NVML, environ: dict[str, str] | None = None, **keys: str
) -> AsyncIterator[Client]:
    """Run the daemon with consumers of these sizes; ``keys`` are set for each of them."""
    tables = "".join(table(host.consumers[name], mib, **keys) for name, mib in SIZES.items())
    host.environ = environ or {}
    host.configure(tables, "concurrent_leases = 0\nhealth_interval_sec = 0.3", gpu)
    await host.start()
    client = await host.client(listen=True)
    changes: dict[str, Any] = {"sender": names.BUS_NAME, "interface": names.PROPERTIES}
    await client.bus.subscribe(callback=client.signals.append, **changes)
    async with status_answers_fast(host):
        yield client
    assert "Traceback" not in host.log, host.log[-4000:]
    assert all([(await consumer.health())["oom"] == 0 for consumer in host.consumers.values()])
