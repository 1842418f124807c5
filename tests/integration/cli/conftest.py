"""Fixtures: a private bus, a scripted manager on it, and gpumanctl."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from gpumand.testing.bus import PrivateBus
from tests.integration.cli.ctl import Ctl
from tests.integration.cli.manager import ScriptedManager


@pytest.fixture
def bus() -> Iterator[PrivateBus]:
    with PrivateBus() as started:
        yield started


@pytest.fixture
async def manager(bus: PrivateBus) -> AsyncIterator[ScriptedManager]:
    started = await ScriptedManager.start(bus.address)
    yield started
    await started.close()


@pytest.fixture
def ctl(bus: PrivateBus) -> Ctl:
    return Ctl(bus.address)
