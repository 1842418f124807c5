"""Answers the lists of the entrance from memory: models, models in memory, and the version of Ollama."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence

from gpumand.gateway import web
from gpumand.gateway.catalog import Document, first
from gpumand.gateway.config import GatewaySettings
from gpumand.gateway.entrance_config import ModelRule
from gpumand.gateway.fleet import MODELS_PATH, Fleet, OtherModels
from gpumand.gateway.models import (
    Offer,
    anthropic_entry,
    anthropic_list,
    choose,
    known_ids,
    ollama_list,
    openai_list,
    rules_for,
    running_list,
)
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
        fleet: the other hosts, whose models are in the lists too.
    """

    def __init__(self, settings: Callable[[], GatewaySettings], offers: Offers, fleet: Fleet) -> None:
        self._settings, self._offers, self._fleet = settings, offers, fleet

    async def answer(
        self, path: str, client: Client, *, with_fleet: bool = True, for_anthropic: bool = False
    ) -> web.Response | None:
        """The answer to a GET request; None if the path is none of a list. Raises Refused for an unknown model.

        Args:
            path: the path.
            client: the client.
            with_fleet: list the models of other hosts too.
            for_anthropic: list models in the form of the API of Anthropic, which has the same paths as that of OpenAI.
        """
        path = path.rstrip("/") or "/"
        if path == MODELS_PATH:
            return await self._for_fleet(client)
        others = await self._others(client) if with_fleet and self._fleet.is_enabled else ()
        if path == "/":
            return web.Response(text="Ollama is running")
        if path in OPENAI_LIST:
            found = await self._openai(client, others)
            return _json(anthropic_list(found) if for_anthropic else {"object": "list", "data": found})
        if path.startswith(OPENAI_ENTRY):
            entry = await self._entry(path.removeprefix(OPENAI_ENTRY), client, others)
            return _json(anthropic_entry(entry) if for_anthropic else entry)
        return await self._ollama(path, client, others)

    async def _openai(self, client: Client, others: Iterable[OtherModels]) -> list[Document]:
        offers = await self._offers.of(client, refresh=True)
        found = openai_list(rules_for(client, self._settings().models), offers)
        return _with_others(found, "id", [one.openai for one in others])

    async def _others(self, client: Client) -> Sequence[OtherModels]:
        """The models of other hosts that a client may use."""
        found = (await self._fleet.models()).values()
        return [one if client.consumers is None else one.only(client.consumers) for one in found]

    async def _for_fleet(self, client: Client) -> web.Response:
        """The models of this host with their consumers, for the gateways of other hosts."""
        offers = await self._offers.of(client, refresh=True)
        rules = rules_for(client, self._settings().models)
        openai, ollama = openai_list(rules, offers), ollama_list(rules, offers)
        names = [str(one["id"]) for one in openai] + [str(one["name"]) for one in ollama]
        chosen = {name: choice.consumer for name in names if (choice := choose(name, rules, offers)) is not None}
        return _json({"openai": openai, "ollama": ollama, "consumers": chosen})

    async def _ollama(self, path: str, client: Client, others: Sequence[OtherModels]) -> web.Response | None:
        if path not in ("/api/tags", "/api/ps", "/api/version"):
            return None
        offers = await self._offers.of(client, refresh=True)
        if path == "/api/version":
            return _json({"version": first((one.lists for one in offers), lambda lists: lists.version) or "0.0.0"})
        if path == "/api/ps":
            return _json({"models": running_list(offers)})
        found = ollama_list(rules_for(client, self._settings().models), offers)
        return _json({"models": _with_others(found, "name", [one.ollama for one in others])})

    async def _entry(self, model: str, client: Client, others: Sequence[OtherModels]) -> Document:
        entry = next((one for one in await self._openai(client, others) if one["id"] == model), None)
        if entry is None:
            rules = rules_for(client, self._settings().models)
            raise self.unknown(model, rules, await self._offers.of(client, refresh=False))
        return entry

    def unknown(self, model: str, rules: Sequence[ModelRule], offers: Sequence[Offer]) -> Refused:
        """The refusal of a model that no consumer is known to serve."""
        names = known_ids(rules, offers)
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        known = f"Known models: {', '.join(names[:MAX_NAMED])}{more}." if names else "No model is known."
        text = f"There is no model {model[:256]!r}. {known} Set its consumer in the table gateway.models."
        return refused(404, "model_not_found", text)


def _with_others(own: list[Document], key: str, others: Iterable[Iterable[Document]]) -> list[Document]:
    """The entries of this host, and those of other hosts that it does not have."""
    found = {str(one[key]): one for one in own}
    for entries in others:
        for one in entries:
            found.setdefault(str(one[key]), one)
    return list(found.values())


def _json(document: object) -> web.Response:
    response = web.Response(body=json.dumps(document).encode(), content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    response.headers["Server"] = "gpumand"
    return response
