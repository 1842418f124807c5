"""Decides which requests another host of the fleet serves, and passes them on to its gateway.

Such a request goes to the gateway of the other host, which holds the lease there. It is passed on once: the gateway
that gets it serves it, or refuses it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from gpumand.gateway import forward, web
from gpumand.gateway.dialects import Api, api_of
from gpumand.gateway.exchange import Exchange
from gpumand.gateway.fleet import Fleet, OtherHost, OtherModels
from gpumand.gateway.headers import LIMIT_HEADER, is_from_fleet, request_headers
from gpumand.gateway.keys import KEY_HEADERS
from gpumand.gateway.models import LATEST, Choice, Offer
from gpumand.gateway.paths import Target
from gpumand.gateway.refusals import ABSENT_RETRY_SEC, refused
from gpumand.gateway.request_body import answer_expect, body_of
from gpumand.gateway.requests import Client
from gpumand.gateway.upstream import UpstreamDown, Upstreams
from gpumand.gateway.websockets import is_websocket

log = logging.getLogger(__name__)

MAX_TRIES = 3


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The host and the path to which a request is passed on.

    Attributes:
        host: the host.
        consumer: its consumer.
        target: path and query there.
        is_here: this host has the consumer too, and serves the request if no other host can.
        hosts: names of the hosts that can serve it; None = any that has the consumer.
    """

    host: OtherHost
    consumer: str
    target: str
    is_here: bool
    hosts: frozenset[str] | None = None


class FleetRoutes:
    """Decides which requests go to another host.

    Args:
        fleet: the other hosts.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def applies(self, request: web.BaseRequest) -> bool:
        """Whether a request may be passed on: not a second time, and no WebSocket."""
        return self._fleet.is_enabled and not is_from_fleet(request.raw_headers) and not is_websocket(request)

    async def for_consumer(self, choice: Choice, offers: list[Offer], target: Target) -> Elsewhere | None:
        """The other host of a consumer that this host does not have loaded; None = this host serves the request.

        Raises Refused for a consumer that may be loaded on one host only, while the fleet does not say which one.
        """
        here = next((one for one in offers if one.consumer == choice.consumer), None)
        if here is not None and here.is_resident:
            return None
        if here is not None and here.is_unique:
            return await self._for_unique(choice, target)
        host = await self._fleet.place(choice.consumer, () if here is not None else (self._fleet.local_name,))
        if host is None:
            return None
        return Elsewhere(host, choice.consumer, f"/c/{choice.consumer}{target.raw}", here is not None)

    async def _for_unique(self, choice: Choice, target: Target) -> Elsewhere | None:
        name = await self._fleet.placed(choice.consumer)
        if name and name == self._fleet.local_name:
            return None
        host = (await self._fleet.others()).get(name)
        if host is None:
            text = f"{choice.consumer} may be loaded on one host only, and the fleet does not say now which one."
            raise refused(503, "fleet_unavailable", f"{text} Try again later.", ABSENT_RETRY_SEC)
        return Elsewhere(host, choice.consumer, f"/c/{choice.consumer}{target.raw}", False)

    async def for_model(self, model: str, target: Target, client: Client) -> Elsewhere | None:
        """The other host that has a model which this host does not know; None = no host is known to have it."""
        having = {
            name: consumer
            for name, one in (await self._fleet.models()).items()
            if (consumer := _consumer_of(one, model, target)) and is_permitted(client, consumer)
        }
        if not having:
            return None
        consumer = next(iter(having.values()))
        hosts = frozenset(name for name, one in having.items() if one == consumer)
        others = await self._fleet.others()
        without = {*(set(others) - hosts), self._fleet.local_name}
        host = await self._fleet.place(consumer, without) or others.get(min(hosts))
        return None if host is None else Elsewhere(host, consumer, target.raw, False, hosts)


def is_permitted(client: Client, consumer: str) -> bool:
    """Whether the key of a client is for a consumer."""
    return client.consumers is None or consumer in client.consumers


def _consumer_of(models: OtherModels, model: str, target: Target) -> str:
    names = {str(one["name"]) for one in models.ollama}
    if api_of(target.path) is Api.OLLAMA and model not in names and f"{model}{LATEST}" not in names:
        return ""
    found = models.consumers.get(model) or models.consumers.get(f"{model}{LATEST}")
    return found or ""


class ElsewhereHandler:
    """Passes requests on to the gateways of other hosts.

    Args:
        fleet: the other hosts.
        upstreams: the HTTP clients.
    """

    def __init__(self, fleet: Fleet, upstreams: Upstreams) -> None:
        self._fleet, self._upstreams = fleet, upstreams

    async def handle(self, exchange: Exchange, route: Elsewhere) -> web.StreamResponse | None:
        """Answer a request; None if no other host can be reached and this host has the consumer. Raises Refused."""
        host: OtherHost | None = route.host
        tried: set[str] = set()
        while host is not None and len(tried) < MAX_TRIES:
            tried.add(host.name)
            try:
                return await self._pass_on(exchange, host, route)
            except UpstreamDown:
                log.warning("the gateway of %s cannot be reached at %s", host.name, host.gateway.base)
            host = await self._next(route, tried)
        if route.is_here:
            return None
        names = ", ".join(sorted(tried))
        text = f"{route.consumer} is on another host, whose gateway cannot be reached: {names}. Try again later."
        raise refused(503, "host_lost", text, 5)

    async def _next(self, route: Elsewhere, tried: set[str]) -> OtherHost | None:
        without = set(tried)
        if route.hosts is not None:
            without |= set(await self._fleet.others()) - route.hosts
        if not route.is_here:
            without.add(self._fleet.local_name)
        return await self._fleet.place(route.consumer, without)

    async def _pass_on(self, exchange: Exchange, host: OtherHost, route: Elsewhere) -> web.StreamResponse:
        """Send the request and pass the answer back. Raises UpstreamDown if no connection was made."""
        raw = ((name, value) for name, value in exchange.request.raw_headers if not _is_key(name))
        headers = request_headers(raw, exchange.origin, host.gateway.origin, forward_user=True)
        for name, value in self._fleet.headers(host.gateway).items():
            headers[name] = value
        if exchange.client.consumers is not None:
            # The other gateway sees the key of this one, which may see everything.
            headers[LIMIT_HEADER] = route.consumer
        body = None
        if exchange.body is not None:
            body = exchange.body.data()
            headers.popall("Content-Length", None)
            if exchange.body.length is not None:
                headers["Content-Length"] = str(exchange.body.length)
        elif exchange.request.body_exists:
            await answer_expect(exchange.request)
            body = body_of(exchange.request)
        exchange.entry.is_working = exchange.entry.kind.needs_lease
        answer = await self._upstreams.request(host.gateway, exchange.request.method, route.target, headers, body)
        try:
            return await forward.relay(exchange, answer, host.gateway)
        finally:
            forward.finish(answer)


def _is_key(name: bytes) -> bool:
    return name.decode("ascii", "replace").lower() in KEY_HEADERS
