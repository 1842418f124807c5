"""Determines the service that a request is for, and the classes of its routes."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Protocol

from gpumand.config.busy_schema import BusyTable
from gpumand.config.presets import MODEL, TAGGED_MODEL, preset, preset_names
from gpumand.config.problems import Place, ProblemList
from gpumand.config.table_schema import INVALID, TableOf
from gpumand.domain.consumer import BusyRoute
from gpumand.gateway.config import GatewaySettings, ListenerSettings
from gpumand.gateway.held_bodies import HeldBody
from gpumand.gateway.refusals import refused
from gpumand.gateway.routes.classes import RouteRules, preset_routes, rules_of

if TYPE_CHECKING:
    from gpumand.gateway import web
    from gpumand.gateway.elsewhere import Elsewhere
    from gpumand.gateway.paths import Target
    from gpumand.gateway.requests import Client
    from gpumand.gateway.status_view import StatusView

log = logging.getLogger(__name__)


PRESET_SEC = 10.0
"""How old the known preset of a consumer may be."""


@dataclass(frozen=True, slots=True)
class Service:
    """A consumer as the gateway offers it.

    Attributes:
        consumer: name of the consumer in gpumand.
        settings: the settings of its listener.
        rules: the classes of its routes.
        busy: its busy check; None = it has none.
    """

    consumer: str
    settings: ListenerSettings
    rules: RouteRules = field(default_factory=RouteRules)
    busy: BusyRoute | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes.

    Attributes:
        service: the service.
        target: the target at the consumer.
        body: what was read of its body; None = nothing, so that it passes as a stream.
        elsewhere: another host that serves it; None = this one does.
    """

    service: Service
    target: Target
    body: HeldBody | None = None
    elsewhere: Elsewhere | None = None


class Router(Protocol):
    """Finds the service for a request, or answers it."""

    async def route(
        self, listener: str, target: Target, request: web.BaseRequest, client: Client
    ) -> Route | web.StreamResponse:
        """The route of a request that came in by a listener, or its answer. Raises Refused."""


class ListenerRouter:
    """Each listener belongs to one service.

    Args:
        settings: the configuration.
        status: names the presets of consumers, for listeners without one.
    """

    def __init__(self, settings: GatewaySettings, status: StatusView) -> None:
        self._status = status
        self._listeners: dict[str, ListenerSettings] = {}
        self._services: dict[str, tuple[str, Service]] = {}
        self.configure(settings)

    def configure(self, settings: GatewaySettings) -> None:
        """Take over a new configuration; requests in flight keep the service that they have."""
        # The settings of removed listeners stay, for the connections that are still open.
        self._listeners |= settings.listeners
        self._services.clear()

    async def route(
        self, listener: str, target: Target, request: web.BaseRequest, client: Client
    ) -> Route | web.StreamResponse:
        """See Router."""
        service = await self.service(self._listeners[listener])
        check_consumer(client, service.consumer)
        return Route(service, target)

    async def service(self, settings: ListenerSettings) -> Service:
        """The service with these settings, with the routes of its preset."""
        name = settings.preset or await self._preset_of(settings.consumer)
        cached, service = self._services.get(settings.name, ("", None))
        if service is None or cached != name or service.settings != settings:
            # The first use of a preset reads its file.
            service = await asyncio.to_thread(service_of, settings, name)
            self._services[settings.name] = name, service
        return service

    async def _preset_of(self, consumer: str) -> str:
        found = await self._status.consumer(consumer, PRESET_SEC)
        name = found.preset if found else ""
        return name if name in preset_names() else ""


def check_consumer(client: Client, consumer: str) -> None:
    """Refuse a client whose key is not for a consumer. Raises Refused."""
    if client.consumers is not None and consumer not in client.consumers:
        # The client sees an address or a path, and need not learn which consumer is behind it.
        text = f"The key {client.name} may not use the consumer at this address. Add it to the key's consumers."
        raise refused(403, "consumer_not_allowed", text)


def service_of(settings: ListenerSettings, preset_name: str) -> Service:
    """The service of a listener.

    Args:
        settings: the settings of the listener.
        preset_name: the preset whose routes apply; "" = none.
    """
    table = preset_routes(preset_name)
    rules = rules_of(table, websocket=settings.websocket, allow=settings.allow)
    return Service(settings.consumer, settings, rules, settings.busy or _preset_busy(preset_name))


@cache
def _preset_busy(name: str) -> BusyRoute | None:
    """The busy check of a preset, if it does not depend on a model."""
    if not name:
        return None
    one = preset(name)
    raw = one.document.table["consumer"].get("busy")
    if raw is None or MODEL in str(raw) or TAGGED_MODEL in str(raw):
        return None
    problems = ProblemList()
    route = TableOf(BusyTable, BusyRoute).read(raw, Place(one.document, ("consumer", "busy")), problems)
    return None if route is INVALID else route
