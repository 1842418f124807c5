"""The entrance: one address for all models. A request goes to the consumer that serves the model that it names.

Nothing is translated: a client of Ollama reaches consumers with the API of Ollama, and a client of OpenAI all that have
that API. Lists are answered from memory, so that a client can see the models of services that are stopped.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import parse_qsl, urlencode

from gpumand.gateway import web
from gpumand.gateway.bodies import BodyBudget
from gpumand.gateway.config import GatewaySettings
from gpumand.gateway.dialects import ANTHROPIC_HEADER, JSON, MODEL_PATHS, OLLAMA_CHANGES, Api, api_of
from gpumand.gateway.elsewhere import Elsewhere, FleetRoutes
from gpumand.gateway.entrance_config import GATEWAY, PathRule
from gpumand.gateway.fleet import Fleet
from gpumand.gateway.form_bodies import FormBody, read_form
from gpumand.gateway.headers import is_from_fleet
from gpumand.gateway.held_bodies import JsonBody, read_json
from gpumand.gateway.lists import OPENAI_ENTRY, EntranceLists
from gpumand.gateway.models import Choice, Offer, choose, rules_for
from gpumand.gateway.offers import Offers
from gpumand.gateway.paths import BadTarget, Target
from gpumand.gateway.refusals import refused
from gpumand.gateway.requests import NAMED_MODEL, Client
from gpumand.gateway.router import ListenerRouter, Route, Service, check_consumer
from gpumand.gateway.routes.classes import WEBSOCKET
from gpumand.gateway.spool import Spool
from gpumand.gateway.websockets import is_websocket

_SCRIPT = re.compile(r"/c/([A-Za-z0-9._-]+)(/[^?]*)?(\?.*)?")
_READ_TYPES = (JSON, "application/x-www-form-urlencoded", "application/octet-stream", "text/plain")
"""Types of bodies that are read as JSON: curl sends JSON as a form unless it is given another type."""

FORM = "multipart/form-data"
_WITHOUT_BODY = ("GET", "HEAD", "OPTIONS")

Chosen = tuple[Choice, Elsewhere | None]


class EntranceRouter:
    """Routes requests to the entrance by their model, and those to other listeners by their listener.

    Args:
        settings: returns the configuration that is in force.
        listeners: routes by listener.
        offers: the consumers.
        bodies: limits the memory of bodies.
        spool: has files for large forms.
        fleet: the other hosts.
    """

    def __init__(
        self,
        settings: Callable[[], GatewaySettings],
        listeners: ListenerRouter,
        offers: Offers,
        bodies: BodyBudget,
        spool: Spool,
        fleet: Fleet,
    ) -> None:
        self._settings, self._listeners, self._offers = settings, listeners, offers
        self._bodies, self._spool = bodies, spool
        self._lists = EntranceLists(settings, offers, fleet)
        self._fleet_routes = FleetRoutes(fleet)

    async def route(
        self, listener: str, target: Target, request: web.BaseRequest, client: Client
    ) -> Route | web.StreamResponse:
        """See Router."""
        if listener != GATEWAY:
            return await self._listeners.route(listener, target, request, client)
        if (script := _SCRIPT.fullmatch(target.raw)) is not None:
            return await self._script(script, target, client)
        if (rule := self._path_rule(target)) is not None:
            return Route(await self._service(rule.consumer, client), _with_path(target, rule.path or rule.pattern))
        if target.has_encoded_slash and not target.path.startswith(OPENAI_ENTRY):
            raise BadTarget("the path contains an encoded slash")
        is_read = request.method in ("GET", "HEAD") and not is_websocket(request)
        if is_read and (own := await self._own_list(target, request, client)) is not None:
            return own
        return await self._by_model(target, request, client)

    async def _own_list(self, target: Target, request: web.BaseRequest, client: Client) -> web.Response | None:
        with_fleet = not is_from_fleet(request.raw_headers)
        for_anthropic = ANTHROPIC_HEADER in request.headers
        return await self._lists.answer(target.path, client, with_fleet=with_fleet, for_anthropic=for_anthropic)

    async def _service(self, consumer: str, client: Client) -> Service:
        check_consumer(client, consumer)
        return await self._listeners.service(self._settings().of_consumer(consumer))

    async def _script(self, found: re.Match[str], target: Target, client: Client) -> Route:
        """A path below ``/c/CONSUMER``, for scripts: pages with absolute links do not work there."""
        offers = await self._offers.of(client, refresh=False)
        if not any(one.consumer == found[1] for one in offers):
            names = ", ".join(one.consumer for one in offers)
            raise refused(404, "no_such_consumer", f"There is no consumer {found[1]}. Consumers: {names or 'none'}.")
        path = target.path.removeprefix(f"/c/{found[1]}") or "/"
        stripped = Target((found[2] or "/") + (found[3] or ""), path, target.has_encoded_slash)
        return Route(await self._service(found[1], client), stripped)

    def _path_rule(self, target: Target) -> PathRule | None:
        return next((one for one in self._settings().routes if one.pattern == target.path), None)

    # -- by model ------------------------------------------------------------------------------------------------

    async def _by_model(self, target: Target, request: web.BaseRequest, client: Client) -> Route:
        if request.method in _WITHOUT_BODY or not request.body_exists:
            return await self._without_body(target, request, client)
        body: JsonBody | FormBody
        if request.content_type == FORM:
            body = await read_form(request, self._bodies, self._spool)
        elif request.content_type in _READ_TYPES:
            # Programs such as Continue name the model as older versions of Ollama did.
            body = await read_json(request, self._bodies, "name" if api_of(target.path) is Api.OLLAMA else "")
        else:
            return await self._without_body(target, request, client)
        request[NAMED_MODEL] = body.model
        try:
            choice, elsewhere = await self._choose(body.model, target, request, client)
            held = body.held(choice.name or body.model)
            return Route(await self._service(choice.consumer, client), target, held, elsewhere)
        except BaseException:
            body.close()
            raise

    async def _without_body(self, target: Target, request: web.BaseRequest, client: Client) -> Route:
        model = request[NAMED_MODEL] = _query_model(target)
        choice, elsewhere = await self._choose(model, target, request, client)
        renamed = _with_query_model(target, choice.name) if model and choice.name != model else target
        return Route(await self._service(choice.consumer, client), renamed, None, elsewhere)

    async def _choose(self, model: str, target: Target, request: web.BaseRequest, client: Client) -> Chosen:
        """The consumer of a request, and another host that serves it."""
        rules = rules_for(client, self._settings().models)
        offers = await self._offers.of(client, refresh=False)
        if not model:
            return await self._without_model(offers, target, request, client), None
        choice = choose(model, rules, offers)
        if choice is None:
            # The server may have got the model since it was asked.
            offers = await self._offers.of(client, refresh=True)
            choice = choose(model, rules, offers)
        can_go = self._fleet_routes.applies(request)
        if choice is None:
            elsewhere = await self._fleet_routes.for_model(model, target, client) if can_go else None
            if elsewhere is None:
                if (
                    target.path in OLLAMA_CHANGES
                    and len(having := await self._having(offers, target, request, client)) == 1
                ):
                    # Such a request names a model that its server does not have yet.
                    return Choice(having[0], model), None
                raise self._lists.unknown(model, rules, offers)
            return Choice(elsewhere.consumer, model), elsewhere
        _check_api(choice, offers, target)
        return choice, await self._fleet_routes.for_consumer(choice, offers, target) if can_go else None

    async def _without_model(
        self, offers: list[Offer], target: Target, request: web.BaseRequest, client: Client
    ) -> Choice:
        """The consumer of a request that names no model: the only one that has the route, or that of the default."""
        default = self._settings().default_model
        rules = rules_for(client, self._settings().models)
        if default and (found := choose(default, rules, offers)) is not None:
            return Choice(found.consumer, "")
        having = await self._having(offers, target, request, client)
        if len(having) == 1:
            return Choice(having[0], "")
        text = "The request names no model. Set model, or use the path below /c/ and the name of the consumer."
        if not having:
            raise refused(404, "no_such_route", f"No consumer is known to have {request.method} {target.shown}. {text}")
        raise refused(400, "model_missing", f"{text} Consumers with this route: {', '.join(having)}.")

    async def _having(self, offers: list[Offer], target: Target, request: web.BaseRequest, client: Client) -> list[str]:
        """The consumers that are known to have the route of a request."""
        method = WEBSOCKET if is_websocket(request) else request.method
        return [one.consumer for one in offers if await self._has_route(one.consumer, method, target, client)]

    async def _has_route(self, consumer: str, method: str, target: Target, client: Client) -> bool:
        rules = (await self._service(consumer, client)).rules
        return rules.names(method, target.path)


def _check_api(choice: Choice, offers: list[Offer], target: Target) -> None:
    """Refuse a request to a consumer that has another API than that of Ollama. Raises Refused."""
    offer = next((one for one in offers if one.consumer == choice.consumer), None)
    is_ollama = api_of(target.path) is Api.OLLAMA and target.path in MODEL_PATHS
    if is_ollama and offer is not None and offer.is_listed and not offer.speaks_ollama:
        text = (
            f"{choice.consumer} does not have the API of Ollama. Use a client of the OpenAI API, with /v1 as its URL."
        )
        raise refused(400, "wrong_api", text)


def _with_path(target: Target, path: str) -> Target:
    _, mark, query = target.raw.partition("?")
    return Target(path + mark + query, path)


def _query_model(target: Target) -> str:
    found = [value for name, value in _query(target) if name == "model"]
    return found[0] if found else ""


def _with_query_model(target: Target, model: str) -> Target:
    path = target.raw.partition("?")[0]
    pairs = [(name, model if name == "model" else value) for name, value in _query(target)]
    return replace(target, raw=f"{path}?{urlencode(pairs)}")


def _query(target: Target) -> list[tuple[str, str]]:
    try:
        return parse_qsl(target.raw.partition("?")[2], keep_blank_values=True, max_num_fields=100)
    except ValueError:
        return []
