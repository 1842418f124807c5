"""A real daemon with real consumers, and gpumanctl against it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from tests.integration.cli.ctl import Ctl
from tests.integration.live import LiveHost, live_host

SIZES = {"mvoice": 2867, "comfyui": 13312, "llm": 14336}


@contextlib.asynccontextmanager
async def world(
    folder: Path, *flags: str, scheduler: str = "concurrent_leases = 0"
) -> AsyncIterator[tuple[LiveHost, Ctl]]:
    """A GPU with 24 GiB and three consumers; the two large ones do not fit at the same time."""
    async with live_host(folder, SIZES, *flags, scheduler=scheduler) as host:
        yield host, Ctl(host.bus.address)
