"""Answers the lists of the entrance from memory: models, models in memory, and the version of Ollama."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from aiohttp import web

from gpumand.gateway.catalog import first
from gpumand.gateway.config import GatewaySettings
from gpumand.gateway.models import Offer, known_ids, ollama_list, openai_list, running_list
from gpumand.gateway.offers import Offers
from gpumand.gateway.refusals import Refused, refused
from gpumand.gateway.requests import Client

OPENAI_LIST = ("/v1/models", "/models", "/api/v1/models")
OPENAI_ENTRY = "/v1/models/"
MAX_NAMED = 30
"""How many models the message about an unknown one names."""


class EntranceLists:
    """Answers lists.

    Args:
        settings: returns the configuration that is in force.
        offers: the consumers.
    """

    def __init__(self, settings: Callable[[], GatewaySettings], offers: Offers) -> None:
        self._settings, self._offers = settings, offers

    async def answer(self, path: str, client: Client) -> web.Response | None:
        """The answer to a GET request; None if the path is none of a list. Raises Refused for an unknown model."""
        path = path.rstrip("/") or "/"
        if path == "/":
            return web.Response(text="Ollama is running")
        if path in OPENAI_LIST:
            offers = await self._offers.of(client, refresh=True)
            return _json({"object": "list", "data": openai_list(self._settings().models, offers)})
        if path.startswith(OPENAI_ENTRY):
            return await self._entry(path.removeprefix(OPENAI_ENTRY), client)
        return await self._ollama(path, client)

    async def _ollama(self, path: str, client: Client) -> web.Response | None:
        if path not in ("/api/tags", "/api/ps", "/api/version"):
            return None
        offers = await self._offers.of(client, refresh=True)
        if path == "/api/version":
            return _json({"version": first((one.lists for one in offers), lambda lists: lists.version) or "0.0.0"})
        return _json({"models": ollama_list(offers) if path == "/api/tags" else running_list(offers)})

    async def _entry(self, model: str, client: Client) -> web.Response:
        offers = await self._offers.of(client, refresh=True)
        entries = openai_list(self._settings().models, offers)
        entry = next((one for one in entries if one["id"] == model), None)
        if entry is None:
            raise self.unknown(model, offers)
        return _json(entry)

    def unknown(self, model: str, offers: Sequence[Offer]) -> Refused:
        """The refusal of a model that no consumer is known to serve."""
        names = known_ids(self._settings().models, offers)
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        known = f"Known models: {', '.join(names[:MAX_NAMED])}{more}." if names else "No model is known."
        text = f"There is no model {model[:256]!r}. {known} Set its consumer in the table gateway.models."
        return refused(404, "model_not_found", text)


def _json(document: object) -> web.Response:
    response = web.Response(body=json.dumps(document).encode(), content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    response.headers["Server"] = "gpumand"
    return response
