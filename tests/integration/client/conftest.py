"""A whole gpumand for the client's tests, and a scripted one for what the real one never does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from gpumand.testing.bus import PrivateBus
from gpumand.testing.daemon import PrivateGpumand
from tests.integration.cli.manager import ScriptedManager


@pytest.fixture(scope="module")
def gpumand() -> Iterator[PrivateGpumand]:
    """Two consumers of which only one fits at a time; leases of one test are gone before the next."""
    with PrivateGpumand({"comfyui": 13312, "ollama": 6144}, total_mib=16384) as started:
        yield started


@pytest.fixture
def own_gpumand() -> Iterator[PrivateGpumand]:
    """One whose daemon a test may kill."""
    with PrivateGpumand({"comfyui": 13312, "ollama": 6144}, total_mib=16384) as started:
        yield started


@pytest.fixture
def bus() -> Iterator[PrivateBus]:
    with PrivateBus() as started:
        yield started


@pytest.fixture
async def manager(bus: PrivateBus) -> AsyncIterator[ScriptedManager]:
    started = await ScriptedManager.start(bus.address)
    yield started
    await started.close()
