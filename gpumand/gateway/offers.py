"""The consumers that the entrance offers, with what is known of their models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gpumand.client.values import Consumer
from gpumand.domain.fleet import UNIQUE
from gpumand.gateway.catalog_reader import CatalogReader, Source
from gpumand.gateway.config import GatewaySettings
from gpumand.gateway.models import Offer, offers_of
from gpumand.gateway.refusals import Refused
from gpumand.gateway.requests import Client
from gpumand.gateway.router import ListenerRouter, Service
from gpumand.gateway.status_view import StatusView
from gpumand.gateway.upstream import endpoint_of

RESIDENT = "resident"


@dataclass(frozen=True, slots=True)
class _Known:
    """The consumers of one snapshot of gpumand's status."""

    snapshot: object
    offers: tuple[Offer, ...]
    sources: tuple[Source, ...]


class Offers:
    """Determines the offers.

    Args:
        settings: returns the configuration that is in force.
        status: names the consumers.
        router: knows the routes of their presets.
        reader: reads their lists.
    """

    def __init__(
        self, settings: Callable[[], GatewaySettings], status: StatusView, router: ListenerRouter, reader: CatalogReader
    ) -> None:
        self._settings, self._status, self._router, self._reader = settings, status, router, reader
        self._known = _Known(None, (), ())

    async def of(self, client: Client, *, refresh: bool) -> list[Offer]:
        """The offers that a client may use.

        Args:
            client: the client.
            refresh: ask servers that run for their lists, if the known ones are older than a second.
        """
        known = await self._consumers()
        if refresh:
            await self._reader.refresh(known.sources)
        found = offers_of(self._reader.catalog, known.offers)
        return [one for one in found if client.consumers is None or one.consumer in client.consumers]

    async def _consumers(self) -> _Known:
        status = await self._status.get()
        if status is None:
            # gpumand did not answer yet: what was known at the last time is listed.
            discover, known = self._settings().discover, self._reader.catalog.lists
            names = (one for one in known.items() if discover is None or one[0] in discover)
            return _Known(None, tuple(Offer(name, False, lists) for name, lists in names), ())
        snapshot = status, self._settings()
        if self._known.snapshot != snapshot:
            self._known = await self._read(snapshot, self._sorted(status.consumers))
        return self._known

    def _sorted(self, consumers: tuple[Consumer, ...]) -> tuple[Consumer, ...]:
        order = {name: index for index, name in enumerate(self._settings().discover or ())}
        return tuple(sorted(consumers, key=lambda one: order.get(one.name, len(order))))

    async def _read(self, snapshot: object, consumers: tuple[Consumer, ...]) -> _Known:
        offers: list[Offer] = []
        sources: list[Source] = []
        servers: set[str] = set()
        for one in consumers:
            service = await self._router.service(self._settings().of_consumer(one.name))
            # Several consumers may be models of one server: its list is asked for once.
            source = self._source(one, service) if one.endpoint not in servers else None
            if source is not None:
                sources.append(source)
                servers.add(one.endpoint)
            speaks_ollama = service.rules.remembers("GET", "/api/tags")
            is_resident = one.residency == RESIDENT
            lists = self._reader.catalog.of(one.name)
            offers.append(Offer(one.name, is_resident, lists, bool(source), speaks_ollama, one.fleet == UNIQUE))
        return _Known(snapshot, tuple(offers), tuple(sources))

    def _source(self, consumer: Consumer, service: Service) -> Source | None:
        discover = self._settings().discover
        if discover is not None and consumer.name not in discover:
            return None
        try:
            endpoint = endpoint_of(consumer.name, consumer.endpoint)
        except Refused:
            return None
        is_named = discover is not None and not service.rules.by_class
        has_openai = is_named or service.rules.remembers("GET", "/v1/models")
        has_ollama = service.rules.remembers("GET", "/api/tags")
        if not (has_openai or has_ollama):
            return None
        headers = {"Authorization": f"Bearer {service.settings.key}"} if service.settings.key else {}
        return Source(consumer.name, endpoint, headers, has_openai, has_ollama)
