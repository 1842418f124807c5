"""Answers requests at the gateway's own address: the web page, the JSON API below /gateway/v1, and /metrics."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from gpumand.gateway import web
from gpumand.gateway.connections import Connection
from gpumand.gateway.console.actions import Actions
from gpumand.gateway.console.events import EventStreams
from gpumand.gateway.console.feed import BusSource, Feed
from gpumand.gateway.console.limited_view import limited_fleet, names_in
from gpumand.gateway.console.paths import METRICS, PREFIX
from gpumand.gateway.console.queries import Queries
from gpumand.gateway.console.rights import check_change, check_site
from gpumand.gateway.console.site import Site
from gpumand.gateway.console.state_view import StateView
from gpumand.gateway.dialects import Api
from gpumand.gateway.exchange import refusal_response
from gpumand.gateway.headers import Origin
from gpumand.gateway.paths import Target
from gpumand.gateway.refusals import Refused, refused
from gpumand.gateway.requests import Client
from gpumand.gateway.visibility import may_see, refusal_for
from gpumand.http.prometheus_format import CONTENT_TYPE

API = PREFIX + "v1/"
EVENTS = API + "events"
FLEET = API + "fleet"

_CONSUMER = re.compile(re.escape(API) + r"consumers/([^/]{1,255})/(load|evict|pin|unpin)")
_CANCEL = re.compile(re.escape(API) + r"requests/([0-9]{1,18})/cancel")


async def no_fleet() -> dict[str, Any] | None:
    """The hosts of a gateway that has no fleet."""
    return None


class Console:
    """The gateway's own address.

    Args:
        source: the connection to gpumand.
        view: describes the gateway.
        actions: carries out changes.
        metrics: returns the page of metrics for a client.
        fleet: returns all hosts of the fleet; None without a fleet.
    """

    def __init__(
        self,
        source: BusSource,
        view: StateView,
        actions: Actions,
        metrics: Callable[[Client], str],
        fleet: Callable[[], Awaitable[dict[str, Any] | None]] = no_fleet,
    ) -> None:
        self._view, self._actions, self._metrics, self._fleet = view, actions, metrics, fleet
        self._feed = Feed(source, self._publish)
        self._streams = EventStreams(self._feed.start, self._feed.stop)
        self._queries = Queries(source)
        self._site = Site()

    async def handle(
        self, request: web.BaseRequest, connection: Connection, target: Target, client: Client, origin: Origin
    ) -> web.StreamResponse:
        """Answer a request."""
        try:
            return await self._answer(request, target, client, origin)
        except Refused as error:
            return refusal_response(error.refusal, Api.OPENAI, request.method)
        except ConnectionError:
            # The client left, or does not read, in the middle of an answer.
            connection.abort()
            return web.Response(status=499)

    def end_streams(self) -> None:
        """End all streams: the keys of their clients may have changed, and pages open new ones by themselves."""
        self._streams.close()

    async def close(self) -> None:
        """End all streams, and the connection to gpumand."""
        self._streams.close()
        await self._feed.close()

    def _publish(self) -> None:
        self._streams.publish(lambda viewer: self._view.state(self._feed.reading, viewer))

    async def _answer(
        self, request: web.BaseRequest, target: Target, client: Client, origin: Origin
    ) -> web.StreamResponse:
        path = target.path
        if found := _CONSUMER.fullmatch(path):
            check_change(request, origin)
            done = await self._on_consumer(found[2], found[1], client, request)
            self._feed.note_change()
            return _json(done)
        if found := _CANCEL.fullmatch(path):
            check_change(request, origin)
            done = await self._actions.cancel(int(found[1]), client, request)
            self._feed.note_change()
            return _json(done)
        if request.method not in ("GET", "HEAD"):
            raise refused(405, "method_not_allowed", "Nothing is changed by this path: use GET.")
        if path.startswith(API):
            check_site(request)
            return await self._read(path, request, client)
        if path == METRICS:
            return _plain(self._metrics(client))
        return self._site.answer(path, request)

    async def _on_consumer(self, verb: str, name: str, client: Client, request: web.BaseRequest) -> dict[str, Any]:
        try:
            done = await self._actions.on_consumer(verb, name, client, request)
        except Refused as error:
            names = () if client.consumers is None else names_in((await self._feed.current()).status)
            raise Refused(refusal_for(client, error.refusal, name, names)) from None
        return done | {"evicted": [one for one in done["evicted"] if may_see(client, one)]} if done else done

    async def _read(self, path: str, request: web.BaseRequest, client: Client) -> web.StreamResponse:
        if path == EVENTS and request.method == "GET":
            return await self._streams.serve(request, client)
        if path == FLEET:
            return _json({"fleet": limited_fleet(await self._fleet(), client)})
        return _json(await self._document(path.removeprefix(API), request, client))

    async def _document(self, name: str, request: web.BaseRequest, client: Client) -> dict[str, Any]:
        match name:
            case "state":
                return self._view.state(await self._feed.current(), client)
            case "requests":
                return self._view.requests(await self._feed.current(), client)
            case "listeners":
                return {"listeners": self._view.shown_listeners(client)}
            case "session":
                return session(client)
            case "history":
                return await self._queries.history(request.query, client)
            case "plan":
                return await self._queries.plan(request.query, client)
        raise refused(404, "not_found", f"There is nothing at this path. The web page is at {PREFIX}.")


def session(client: Client) -> dict[str, Any]:
    """What a client may do. ``consumers`` are those that it may use; null = all."""
    consumers = None if client.consumers is None else sorted(client.consumers)
    rights = {"may_evict": client.may_evict, "consumers": consumers}
    return {"client": client.name, "has_key": client.has_key, **rights}


def _json(fields: dict[str, Any]) -> web.Response:
    response = web.json_response(fields)
    _set_headers(response)
    return response


def _plain(page: str) -> web.Response:
    response = web.Response(body=page.encode(), headers={"Content-Type": CONTENT_TYPE})
    _set_headers(response)
    return response


def _set_headers(response: web.Response) -> None:
    response.headers["Server"] = "gpumand"
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
