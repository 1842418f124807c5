"""The ConsumerRoutes port over HTTP."""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gpumand.consumers import answers, busy_answers
from gpumand.consumers.answers import Answer, NoAnswer
from gpumand.domain.consumer import BusyRoute, ConsumerSpec, Health, HealthRoute, Route, Work
from gpumand.ports import Clock, RouteFailed

if TYPE_CHECKING:
    from gpumand.consumers.http_exchange import Exchange


class HttpRoutes:
    """Loads, unloads and probes consumers by their configured HTTP routes.

    Every exchange ends within its route's ``timeout_sec``. Consumers share nothing: one that hangs holds up its own
    requests only.

    Args:
        clock: says what time it is, to judge what consumers say of theirs.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._opening = asyncio.Lock()
        self._exchange: Exchange | None = None
        self._is_closed = False

    async def load(self, spec: ConsumerSpec) -> None:
        """Call the load route; a return means that it answered 2xx. Raises RouteFailed."""
        await self._call("load route", spec, spec.load)

    async def unload(self, spec: ConsumerSpec) -> None:
        """Call the unload route; a return means that it answered 2xx, not that anything was freed.

        Raises RouteFailed.
        """
        await self._call("unload route", spec, spec.unload)

    async def probe(self, spec: ConsumerSpec) -> Health:
        """Ask the health route; whatever goes wrong is in the Health."""
        if spec.health is None:
            return Health(reachable=False, error="no health route is configured")
        try:
            answer = await self._ask(spec, _asking(spec.health))
        except NoAnswer as failure:
            return Health(reachable=False, gone=failure.refused, error=f"health route: {failure}")
        return answers.health(spec.health, answer, self._clock.realtime_usec())

    async def jobs(self, spec: ConsumerSpec) -> Work:
        """Ask the busy route; whatever goes wrong is in the Work."""
        if spec.busy is None:
            return Work(None, error="no busy route is configured")
        try:
            answer = await self._ask(spec, _asking(spec.busy))
        except NoAnswer as failure:
            return Work(None, gone=failure.refused, error=f"busy route: {failure}")
        return busy_answers.work(spec.busy, answer)

    async def close(self) -> None:
        """Close all connections; calls after this fail."""
        self._is_closed = True
        async with self._opening:
            exchange, self._exchange = self._exchange, None
        if exchange is not None:
            await exchange.close()

    async def _call(self, what: str, spec: ConsumerSpec, route: Route | None) -> None:
        if route is None:
            raise RouteFailed(f"no {what} is configured")
        try:
            answer = await self._ask(spec, route)
        except NoAnswer as failure:
            raise RouteFailed(f"{what}: {failure}", refused=failure.refused) from None
        if complaint := answers.complaint(answer) or answers.denial(route, answer):
            raise RouteFailed(f"{what} {complaint}")

    async def _ask(self, spec: ConsumerSpec, route: Route) -> Answer:
        url = target(spec.url, route.path)
        exchange = await self._open()
        headers = _headers(spec, route)
        return await exchange.ask(spec.name, route.method, url, route.json, headers, route.timeout_sec)

    async def _open(self) -> Exchange:
        """The exchange, made on first use; aiohttp takes its time to import, so a thread does it."""
        async with self._opening:
            if self._is_closed:
                raise NoAnswer("gpumand is stopping")
            if self._exchange is None:
                await asyncio.to_thread(importlib.import_module, "gpumand.consumers.http_exchange")
                from gpumand.consumers.http_exchange import Exchange

                self._exchange = Exchange()
            return self._exchange


def target(base: str, path: str) -> str:
    """The URL of a route: its path below that of the consumer's ``url``, on exactly its host.

    Raises NoAnswer where ``url`` is no http or https URL.
    """
    try:
        parts = urlsplit(base)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise NoAnswer(f"not a usable http or https URL: {base!r}")
    below = path if path.startswith("/") else f"/{path}"
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}{below}"


def _headers(spec: ConsumerSpec, route: Route) -> tuple[tuple[str, str], ...]:
    """The consumer's own, but for those that the route has too."""
    of_route = {name.lower() for name, _ in route.headers}
    return (*(pair for pair in spec.headers if pair[0].lower() not in of_route), *route.headers)


def _asking(route: HealthRoute | BusyRoute) -> Route:
    return Route(path=route.path, method="GET", headers=route.headers, timeout_sec=route.timeout_sec)
