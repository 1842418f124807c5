"""Answers lists of models at a listener while its server is stopped, from the catalog on disk."""

from __future__ import annotations

import json
from typing import Any

from gpumand.gateway import web
from gpumand.gateway.catalog import Document, Lists
from gpumand.gateway.catalog_reader import CatalogReader, Source
from gpumand.gateway.exchange import Exchange
from gpumand.gateway.upstream import Endpoint

OPENAI, TAGS, VERSION, ROOT = "/v1/models", "/api/tags", "/api/version", "/"


class StoppedLists:
    """The lists of consumers, as the gateway itself has read them.

    What a server has answered to a client may be meant for that client alone, and is forgotten at a restart. The
    catalog has what the gateway gets with the key of its configuration, so that any client may see it.

    Args:
        reader: reads and keeps the catalog.
    """

    def __init__(self, reader: CatalogReader) -> None:
        self._reader = reader

    def observe(self, exchange: Exchange, endpoint: Endpoint) -> None:
        """Bring the catalog up to date after a server has answered one of its lists."""
        if not _is_list(exchange):
            return
        service = exchange.service
        headers = {"Authorization": f"Bearer {service.settings.key}"} if service.settings.key else {}
        has_openai, has_ollama = (service.rules.remembers("GET", one) for one in (OPENAI, TAGS))
        self._reader.read_beside(Source(service.consumer, endpoint, headers, has_openai, has_ollama))

    def answer(self, exchange: Exchange) -> web.Response | None:
        """The answer to a request for a list; None if it is none, or if nothing is known."""
        if not _is_list(exchange):
            return None
        lists, path = self._reader.catalog.of(exchange.service.consumer), exchange.target.path
        if path == ROOT:
            return web.Response(text="Ollama is running") if lists.version else None
        document = _document(path, lists)
        return None if document is None else _json(document)


def _is_list(exchange: Exchange) -> bool:
    rules, path = exchange.service.rules, exchange.target.path
    if exchange.request.method not in ("GET", "HEAD") or not rules.remembers("GET", path):
        return False
    # Only a server with the API of Ollama answers its root as Ollama does.
    return path in (OPENAI, TAGS, VERSION) or (path == ROOT and rules.remembers("GET", VERSION))


def _document(path: str, lists: Lists) -> Document | None:
    if path == OPENAI:
        return {"object": "list", "data": [_unloaded(one) for one in lists.openai]} if lists.openai else None
    if path == TAGS:
        return {"models": list(lists.ollama)} if lists.ollama else None
    return {"version": lists.version} if lists.version else None


def _unloaded(entry: Document) -> Document:
    """An entry of a server that is stopped, where it said that its model is loaded."""
    return entry | {"status": {"value": "unloaded"}} if "status" in entry else entry


def _json(document: dict[str, Any]) -> web.Response:
    response = web.Response(body=json.dumps(document).encode(), content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    response.headers["Server"] = "gpumand"
    return response
