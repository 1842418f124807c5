"""Busy checks of consumers, for jobs that go on after their answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gpumand.domain.consumer import BusyReport, ConsumerSpec
from gpumand.gateway.clock import GatewayClock

if TYPE_CHECKING:
    from gpumand.consumers.routes import HttpRoutes


class BusyChecks:
    """Sends busy checks. Their modules, half a megabyte, are imported at the first one: few services have jobs."""

    def __init__(self) -> None:
        self._routes: HttpRoutes | None = None

    async def probe_busy(self, spec: ConsumerSpec) -> BusyReport:
        """Return what a consumer answers to its busy check; see ``HttpRoutes``."""
        # The import would block the event loop for some 20 ms.
        await asyncio.to_thread(__import__, "gpumand.consumers.routes")
        from gpumand.consumers.routes import HttpRoutes

        if self._routes is None:
            self._routes = HttpRoutes(GatewayClock())
        return await self._routes.probe_busy(spec)

    async def close(self) -> None:
        """Close all connections."""
        if self._routes is not None:
            await self._routes.close()
