"""A real gpumand for the tests of the client, and a scripted one for answers that the real one never gives."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from gpumand.testing.bus import PrivateBus
from gpumand.testing.daemon import PrivateGpumand
from tests.integration.cli.manager import ScriptedManager


@pytest.fixture(scope="module")
def gpumand() -> Iterator[PrivateGpumand]:
    """A daemon with two consumers of which only one fits at a time; every test releases its leases."""
    with PrivateGpumand({"comfyui": 13312, "ollama": 6144}, total_mib=16384) as started:
        yield started


@pytest.fixture
def own_gpumand() -> Iterator[PrivateGpumand]:
    """A daemon of its own that the test may kill."""
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
