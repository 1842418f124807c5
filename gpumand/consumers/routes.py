"""Implements the ConsumerRoutes port over HTTP."""

from __future__ import annotations

import asyncio
import importlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gpumand.consumers import answers, busy_answers
from gpumand.consumers.answers import Answer, NoAnswer
from gpumand.consumers.http_request import Request
from gpumand.domain.consumer import BusyReport, BusyRoute, ConsumerSpec, Health, HealthRoute, Route
from gpumand.domain.residency import DENIED_STATUS
from gpumand.domain.socket_url import split_socket_url
from gpumand.ports import ClientConnections, Clock, RouteFailed

if TYPE_CHECKING:
    from gpumand.consumers.http_exchange import Exchange

log = logging.getLogger(__name__)


class HttpRoutes:
    """Loads, unloads and probes consumers by their configured HTTP routes.

    Every request ends within its route's ``timeout_sec``. Consumers share no resources: one that hangs delays only its
    own requests.

    Args:
        clock: current time, to check times that consumers report.
        connections: counts the clients of consumers; None = they are unknown.
    """

    def __init__(self, clock: Clock, connections: ClientConnections | None = None) -> None:
        self._clock, self._connections = clock, connections
        self._exchange_lock = asyncio.Lock()
        self._exchange: Exchange | None = None
        self._is_closed = False

    async def load(self, spec: ConsumerSpec) -> None:
        """Call the load route; returns when it has answered with 2xx and reports no failure. Raises RouteFailed."""
        await self._call("load route", spec, spec.load, is_load=True)

    async def unload(self, spec: ConsumerSpec) -> None:
        """Call the unload route; returns when it has answered with 2xx, which does not prove that VRAM is free.

        A server that refuses because the model is not loaded has nothing to unload, which is no failure.

        Raises RouteFailed.
        """
        try:
            await self._call("unload route", spec, spec.unload, is_load=False)
        except RouteFailed as failed:
            if failed.refused or spec.health is None or not spec.health.loaded:
                raise
            # Another method of eviction would stop the unit, and with it the other models of the server.
            health = await self.probe_health(spec)
            if health.loaded is not False or health.sleeping:
                raise
            log.info("%s: %s; the server says that the model is not loaded", spec.name, failed)

    async def probe_health(self, spec: ConsumerSpec) -> Health:
        """Call the health route; a failure is reported in the returned Health."""
        if spec.health is None:
            return Health(reachable=False, error="no health route is configured")
        try:
            answer = await self._probe(spec, _get_request(spec.health))
        except NoAnswer as failure:
            return Health(reachable=False, refused=failure.refused, error=f"health route: {failure}")
        health = answers.parse_health(spec.health, answer, self._clock.realtime_usec())
        if health.reachable and await self._is_asleep(spec, spec.health):
            return replace(health, sleeping=True, loaded=False)
        return health

    async def _is_asleep(self, spec: ConsumerSpec, route: HealthRoute) -> bool:
        """Ask a server whether its model sleeps, if its health check does not say so; False if it does not answer."""
        if not route.sleeping_path:
            return False
        try:
            answer = await self._probe(spec, replace(_get_request(route), path=route.sleeping_path))
        except NoAnswer:
            return False
        is_usable = not answers.status_error(answer) and not answer.is_cut
        return is_usable and answers.is_sleeping(route, answers.parse(answer.body))

    async def probe_busy(self, spec: ConsumerSpec) -> BusyReport:
        """Call the busy route; a failure is reported in the returned BusyReport."""
        if spec.busy is None:
            return BusyReport(None, error="no busy route is configured")
        if not spec.busy.path:
            return await self._count_clients(spec, BusyReport(None))
        try:
            answer = await self._probe(spec, _get_request(spec.busy))
        except NoAnswer as failure:
            report = BusyReport(None, refused=failure.refused, error=f"busy route: {failure}")
            # A server at full load may not answer in time; its clients' connections show whether it works.
            return report if failure.refused else await self._count_clients(spec, report)
        report = busy_answers.parse_busy(spec.busy, answer)
        # A server that refuses the question (llama-server without --slots answers 501), or gives no usable answer, does
        # not say that it is idle. Its clients' connections show whether it works.
        if report.jobs or not (report.jobs is None or spec.busy.connections):
            return report
        return await self._count_clients(spec, report)

    async def _count_clients(self, spec: ConsumerSpec, report: BusyReport) -> BusyReport:
        """Count established connections as jobs, where the consumer's own report does not show that it is busy."""
        clients = None if self._connections is None else await self._connections.clients_of(spec.url, spec.name)
        if clients is not None:
            return replace(report, jobs=clients)
        return replace(
            report, jobs=None, error=report.error or f"the connections of {spec.url} cannot be seen from here"
        )

    async def read(self, spec: ConsumerSpec, path: str, timeout_sec: float) -> Answer:
        """Send a GET request for a path of the consumer. Raises NoAnswer."""
        return await self._probe(spec, Route(path=path, method="GET", timeout_sec=timeout_sec))

    async def close(self) -> None:
        """Close all connections; later calls fail."""
        # Set before the await, so that a call that waits for the lock does not open a new exchange afterwards.
        self._is_closed = True
        async with self._exchange_lock:
            exchange, self._exchange = self._exchange, None
        if exchange is not None:
            await exchange.close()

    async def _call(self, route_name: str, spec: ConsumerSpec, route: Route | None, *, is_load: bool) -> None:
        if route is None:
            raise RouteFailed(f"no {route_name} is configured")
        try:
            answer = await self._send(spec, route, read_to_end=bool(route.success or route.error))
        except NoAnswer as failure:
            raise RouteFailed(f"{route_name}: {failure}", refused=failure.refused) from None
        if error := answers.status_error(answer) or answers.reported_failure(route, answer, needs_proof=is_load):
            advice = f". Set or check key_file in consumers.{spec.name}" if answer.status in DENIED_STATUS else ""
            raise RouteFailed(f"{route_name} {error}{advice}", status=answer.status)

    async def _probe(self, spec: ConsumerSpec, route: Route) -> Answer:
        """Send a request that changes nothing."""
        return await self._send(spec, route, repeatable=True)

    async def _send(
        self, spec: ConsumerSpec, route: Route, *, read_to_end: bool = False, repeatable: bool = False
    ) -> Answer:
        request = Request(
            consumer=spec.name,
            method=route.method,
            url=route_url(spec.url, route.path),
            json=route.json,
            headers=_headers(spec, route),
            timeout_sec=route.timeout_sec,
            reads_to_end=read_to_end,
            socket=socket_path(spec.url),
            repeatable=repeatable,
        )
        try:
            return await (await self._get_exchange()).request(request)
        except NoAnswer as failure:
            raise NoAnswer(await self._with_reason(spec, failure), refused=failure.refused) from None

    async def _with_reason(self, spec: ConsumerSpec, failure: NoAnswer) -> str:
        """The message of a failure, with what the host shows about the server's address."""
        is_open = failure.refused or self._connections is None
        reason = (
            "" if is_open or self._connections is None else await self._connections.why_unreachable(spec.url, spec.name)
        )
        return f"{failure}; {reason}" if reason else str(failure)

    async def _get_exchange(self) -> Exchange:
        """Return the exchange, which is created on first use."""
        # The lock keeps simultaneous first calls from creating two exchanges. The import would block the event
        # loop for a moment, so it runs in a thread.
        async with self._exchange_lock:
            if self._is_closed:
                raise NoAnswer("gpumand is stopping")
            if self._exchange is None:
                await asyncio.to_thread(importlib.import_module, "gpumand.consumers.http_exchange")
                from gpumand.consumers.http_exchange import Exchange

                self._exchange = Exchange()
            return self._exchange


def route_url(base: str, path: str) -> str:
    """Return the URL of a route: its path appended to the consumer's ``url``, always on the same host.

    For a Unix socket, the host in the URL is "localhost", which the server gets as the Host header.

    Raises NoAnswer if ``url`` is not an http or https URL.
    """
    absolute_path = path if path.startswith("/") else f"/{path}"
    if (socket := split_socket_url(base)) is not None:
        return f"http://localhost{socket[1]}{absolute_path}"
    # urljoin is not used, because a path such as //other.example/x would change the host.
    try:
        parts = urlsplit(base)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise NoAnswer(f"not a usable http or https URL: {base!r}")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}{absolute_path}"


def socket_path(base: str) -> str:
    """Return the path of the Unix socket that a consumer's ``url`` names, or ""."""
    socket = split_socket_url(base)
    return socket[0] if socket else ""


def _headers(spec: ConsumerSpec, route: Route) -> tuple[tuple[str, str], ...]:
    """Merge the headers of the consumer and the route; those of the route win."""
    of_route = {name.lower() for name, _ in route.headers}
    return (*(pair for pair in spec.headers if pair[0].lower() not in of_route), *route.headers)


def _get_request(route: HealthRoute | BusyRoute) -> Route:
    return Route(path=route.path, method="GET", headers=route.headers, timeout_sec=route.timeout_sec)
