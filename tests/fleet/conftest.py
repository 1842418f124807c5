"""One lab for each test, so that no fault of one test is left for the next."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.fleet.lab import Lab, running_lab


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """Three hosts, each with a member of etcd."""
    async with running_lab() as started:
        yield started
