"""Fixtures of the tests of consumers' routes."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gpumand.consumers.routes import HttpRoutes
from gpumand.host.clock import SystemClock


@pytest.fixture
async def routes() -> AsyncIterator[HttpRoutes]:
    routes = HttpRoutes(SystemClock())
    yield routes
    await routes.close()
