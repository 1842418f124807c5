"""Handles one request: checks it, determines its service and its class, and answers refusals in the client's API."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from aiohttp import HttpVersion11

from gpumand.gateway import cors, web
from gpumand.gateway.access import foreign_site, is_from_foreign_site
from gpumand.gateway.access_log import AccessLog, Visit
from gpumand.gateway.admissions import Admission, Admissions
from gpumand.gateway.connections import Connection, connection_of
from gpumand.gateway.console.paths import is_for_console
from gpumand.gateway.dialects import ANTHROPIC_HEADER, Api, Dialect, dialect_of
from gpumand.gateway.entrance_config import GATEWAY
from gpumand.gateway.exchange import Exchange, accepts, refusal_response
from gpumand.gateway.forward import AnswerCut
from gpumand.gateway.headers import REFUSED_HEADER, BadHeader, Origin, check_headers, is_from_fleet, passed_gateway
from gpumand.gateway.looking import NOT_RUNNING, LookHandler
from gpumand.gateway.metrics import Metrics
from gpumand.gateway.parts import Parts
from gpumand.gateway.paths import BadTarget, Target, check_target
from gpumand.gateway.refusals import Refusal, Refused, refused
from gpumand.gateway.request_body import bad_body
from gpumand.gateway.requests import Entry
from gpumand.gateway.router import Route, Router, Service, check_consumer
from gpumand.gateway.routes.classes import WEBSOCKET, RouteClass
from gpumand.gateway.socket_requests import SocketHandler
from gpumand.gateway.websockets import is_websocket
from gpumand.gateway.working import WorkHandler

if TYPE_CHECKING:
    from gpumand.gateway.console.console import Console

log = logging.getLogger(__name__)

CLIENT_GONE = 499
"""Status of requests whose client left, in metrics and lists, as in nginx. A client that has closed its sending side
looks the same, and counts as one that left even where it gets an answer."""

HALF_CLOSED = (
    "The client closed its sending side, which looks the same as if it had left, so that the request was ended. "
    "Keep the connection open until the answer has arrived: use curl, or nc without -N."
)


class Gateway:
    """The handler of all requests.

    Args:
        parts: what all handlers share.
        admissions: admits requests.
        router: determines the service of a request.
        metrics: observes requests.
        work, look, sockets: the handlers by class.
        console: returns the part that answers for the gateway itself.
    """

    def __init__(
        self,
        parts: Parts,
        admissions: Admissions,
        router: Router,
        metrics: Metrics,
        *,
        work: WorkHandler,
        look: LookHandler,
        sockets: SocketHandler,
        console: Callable[[], Awaitable[Console]],
    ) -> None:
        self._parts, self._admissions, self._router, self._metrics = parts, admissions, router, metrics
        self._access_log = AccessLog(lambda: parts.settings().access_log)
        self._work, self._look, self._sockets, self._console = work, look, sockets, console

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        connection = connection_of(request)
        visit = Visit(request, connection.listener, connection.peer or "unknown", self._parts.table.now())
        response: web.StreamResponse | None = None
        try:
            response = await self._answer(request, connection, visit)
            visit.status = response.status if visit.entry is None else visit.entry.status
            return response
        except asyncio.CancelledError:
            visit.status = CLIENT_GONE
            raise
        finally:
            self._access_log.write(visit, _own_size(response))

    async def _answer(self, request: web.BaseRequest, connection: Connection, visit: Visit) -> web.StreamResponse:
        connection.begin_request(request)
        try:
            response = await self._checked(request, connection, visit)
            if not response.prepared:
                cors.allow(response.headers, self._listed_origin(request))
            # Before HTTP/1.1, the end of the connection is the only end of an answer of unknown length.
            is_last = request.version < HttpVersion11 and response.content_length is None
            if is_last or connection.has_queued_requests or connection.is_half_closed or not request.content.is_eof():
                response.force_close()
            return response
        except (BadHeader, BadTarget) as error:
            return _bad_request(str(error))
        except asyncio.CancelledError:
            if not connection.is_gone:
                raise
            return _left(connection, Api.OPENAI, request.method)
        finally:
            connection.end_request(is_read=request.content.is_eof())

    async def _checked(self, request: web.BaseRequest, connection: Connection, visit: Visit) -> web.StreamResponse:
        check_headers(request.raw_headers)
        target = check_target(request.method, request.raw_path)
        # A browser asks without a key whether it may send one.
        if (answer := cors.preflight(request, self._parts.settings().origins)) is not None:
            return answer
        try:
            if passed_gateway(request.raw_headers) and not is_from_fleet(request.raw_headers):
                raise refused(
                    508, "loop", "This request has already passed gpumand: the consumer's url names the gateway."
                )
            if connection.body.is_broken:
                raise bad_body()
            admission = self._admissions.admit(request, connection)
            visit.client = admission.client.name
        except Refused as error:
            return refusal_response(error.refusal, _refusal_api(request, target, connection), request.method)
        try:
            if connection.listener == GATEWAY and is_for_console(request, target.path):
                return await self._own_answer(admission, target)
            return await self._recorded(admission, target, visit)
        finally:
            self._admissions.end(admission)

    async def _own_answer(self, admission: Admission, target: Target) -> web.StreamResponse:
        """Answer a request to the gateway itself."""
        request, connection = admission.request, admission.connection
        if request.method == "POST":
            connection.require_client()
        try:
            console = await self._console()
            return await console.handle(request, connection, target, admission.client, admission.origin)
        except asyncio.CancelledError:
            if admission.refusal is None or connection.is_gone or admission.task is None:
                raise
            admission.task.uncancel()
            if request.writer.output_size > 0:
                connection.abort()
                return _gone()
            return refusal_response(admission.refusal, Api.OPENAI, request.method)

    async def _recorded(self, admission: Admission, target: Target, visit: Visit) -> web.StreamResponse:
        """Answer a request to a service, which is in the table of requests meanwhile."""
        request = admission.request
        entry = self._parts.table.add(admission.client, "", request.method, target.shown, RouteClass.LOOK)
        admission.entry = visit.entry = entry
        try:
            response = await self._routed(request, admission.connection, target, admission.origin, entry)
            entry.status = entry.status or response.status
            return response
        except asyncio.CancelledError:
            entry.status = entry.status or CLIENT_GONE
            raise
        except Exception as error:
            entry.status = entry.status or (400 if isinstance(error, BadTarget) else 500)
            raise
        finally:
            self._parts.table.remove(entry)
            self._metrics.request_ended(entry)

    async def _routed(
        self, request: web.BaseRequest, connection: Connection, target: Target, origin: Origin, entry: Entry
    ) -> web.StreamResponse:
        """Determine the service of a request, and answer it."""
        try:
            route = await self._router.route(connection.listener, target, request, entry.client)
        except Refused as error:
            return refusal_response(error.refusal, _refusal_api(request, target, connection), request.method)
        except asyncio.CancelledError:
            _end_cancel(entry, connection)
            return _cancel_answer(entry, connection, _refusal_api(request, target, connection), request.method)
        if not isinstance(route, Route):
            return route
        try:
            return await self._answered(self._exchange(request, connection, route, origin, entry))
        finally:
            if route.body is not None:
                route.body.close()

    def _exchange(
        self, request: web.BaseRequest, connection: Connection, route: Route, origin: Origin, entry: Entry
    ) -> Exchange:
        """Begin the exchange of a request whose service is known. Raises BadTarget."""
        service, target = route.service, route.target
        if target.has_encoded_slash and not service.rules.allows_encoded_slash(request.method, target.path):
            raise BadTarget("the path contains an encoded slash")
        entry.consumer, entry.kind = service.consumer, _classify(request, target, service)
        if entry.kind.needs_lease or is_websocket(request):
            connection.require_client()
        dialect = replace(_first_dialect(request, target), api=_refusal_api(request, target, connection))
        exchange = Exchange(request, connection, target, origin, service, entry, dialect)
        exchange.body, exchange.listed_origin = route.body, self._listed_origin(request)
        exchange.elsewhere = route.elsewhere
        exchange.is_foreign = is_from_foreign_site(request.headers, self._parts.settings().origins)
        return exchange

    def _listed_origin(self, request: web.BaseRequest) -> str:
        return cors.listed_origin(request, self._parts.settings().origins)

    async def _answered(self, exchange: Exchange) -> web.StreamResponse:
        try:
            return await self._dispatched(exchange)
        except asyncio.CancelledError:
            return await self._cancelled(exchange)

    async def _cancelled(self, exchange: Exchange) -> web.StreamResponse:
        """The answer to a request that was cancelled: its client left or may not send it now, or it was ended."""
        entry = exchange.entry
        _end_cancel(entry, exchange.connection)
        has_begun = entry.answered_sec is not None or is_websocket(exchange.request)
        if entry.refusal is not None and not exchange.connection.is_gone and not has_begun:
            return await self._refuse(exchange, entry.refusal)
        if exchange.response is not None:
            exchange.connection.abort()
            return exchange.response
        return _cancel_answer(exchange.entry, exchange.connection, exchange.dialect.api, exchange.request.method)

    async def _dispatched(self, exchange: Exchange) -> web.StreamResponse:
        try:
            return await self._by_class(exchange)
        except Refused as error:
            return await self._refuse(exchange, error.refusal)
        except AnswerCut:
            assert exchange.response is not None
            return exchange.response
        except ConnectionError:
            # The client left while its answer was being written.
            exchange.connection.abort()
            exchange.entry.status = CLIENT_GONE
            return _gone() if exchange.response is None else exchange.response

    async def _by_class(self, exchange: Exchange) -> web.StreamResponse:
        # A reload may have changed the rights of the client while its body was read, before its consumer was known.
        check_consumer(exchange.client, exchange.entry.consumer)
        if exchange.is_foreign and exchange.entry.kind.needs_lease:
            raise foreign_site()
        if exchange.elsewhere is not None:
            answer = await self._parts.elsewhere.handle(exchange, exchange.elsewhere)
            if answer is not None:
                return answer
        kind = exchange.entry.kind
        if kind is RouteClass.NEVER:
            text = "This route may not be used through the gateway. To permit it, add it to the listener's allow key."
            raise refused(403, "route_not_allowed", text)
        if is_websocket(exchange.request):
            return await self._sockets.handle(exchange)
        if kind.needs_lease:
            return await self._work.handle(exchange)
        try:
            return await self._look.handle(exchange)
        except Refused as error:
            if error.refusal.code != NOT_RUNNING or not _starts(exchange):
                raise
        # The service refused the connection, so that nothing of the body was read.
        return await self._as_work(exchange)

    async def _as_work(self, exchange: Exchange) -> web.StreamResponse:
        """Answer a request that needs no lease while its service runs, and that loads the service now."""
        if exchange.is_foreign:
            raise foreign_site()
        exchange.entry.kind = RouteClass.WORK
        exchange.connection.require_client()
        return await self._work.handle(exchange)

    async def _refuse(self, exchange: Exchange, refusal: Refusal) -> web.StreamResponse:
        log.info(
            "%s %s for %s refused (%s): %s",
            exchange.request.method,
            exchange.target.shown,
            exchange.client.name,
            refusal.code,
            refusal.message,
        )
        exchange.entry.status = refusal.status
        if exchange.response is None:
            return refusal_response(refusal, exchange.dialect.api, exchange.request.method)
        await exchange.response.write(exchange.dialect.error_frame(refusal))
        await exchange.response.write_eof()
        return exchange.response


def _end_cancel(entry: Entry, connection: Connection) -> None:
    """Let the current task answer after its request was cancelled. Raises CancelledError if only the task was."""
    task = asyncio.current_task()
    if not (entry.is_cancelled or connection.is_gone):
        raise asyncio.CancelledError
    if task is not None:
        task.uncancel()
    status = entry.refusal.status if entry.refusal is not None else 503
    entry.status = status if entry.is_cancelled else CLIENT_GONE


def _cancel_answer(entry: Entry, connection: Connection, api: Api, method: str) -> web.StreamResponse:
    """The answer to a cancelled request whose answer has not begun."""
    if connection.is_gone:
        return _left(connection, api, method)
    if entry.refusal is not None:
        return refusal_response(entry.refusal, api, method)
    text = f"The request was cancelled: {entry.cancel_reason}."
    return refusal_response(Refusal(503, "cancelled", text, entry.cancel_retry_sec), api, method)


def _first_dialect(request: web.BaseRequest, target: Target) -> Dialect:
    html, json = accepts(request, "text/html"), accepts(request, "application/json")
    return dialect_of(target.path, None, accepts_html=html, accepts_json=json)


def _refusal_api(request: web.BaseRequest, target: Target, connection: Connection) -> Api:
    """The form of refusals, by the path and the headers of a request."""
    api = _first_dialect(request, target).api
    if api is Api.OPENAI and ANTHROPIC_HEADER in request.headers:
        return Api.ANTHROPIC
    if connection.listener != GATEWAY or api is not Api.PLAIN:
        return api
    # Clients of the entrance speak an API, even where they use a route that is not known.
    return Api.OLLAMA if target.path.startswith("/api/") else Api.OPENAI


def _classify(request: web.BaseRequest, target: Target, service: Service) -> RouteClass:
    method = WEBSOCKET if is_websocket(request) else request.method
    return service.rules.classify(method, target.path, accepts_html=accepts(request, "text/html"))


def _starts(exchange: Exchange) -> bool:
    return exchange.service.rules.starts(exchange.request.method, exchange.target.path)


def _own_size(response: web.StreamResponse | None) -> int:
    """Size of an answer that the gateway has made itself."""
    return (response.content_length or 0) if isinstance(response, web.Response) else 0


def _bad_request(message: str) -> web.Response:
    response = web.Response(status=400, text=f"{message}\n", headers={REFUSED_HEADER: "refused"})
    # What follows on this connection may be the rest of an attack.
    response.force_close()
    return response


def _left(connection: Connection, api: Api, method: str) -> web.Response:
    """The answer to a client that counts as one that has left."""
    if not connection.is_half_closed:
        return _gone()
    response = refusal_response(Refusal(400, "sending_side_closed", HALF_CLOSED), api, method)
    response.force_close()
    return response


def _gone() -> web.Response:
    """A response that is never sent, because the client has left."""
    response = web.Response(status=CLIENT_GONE)
    response.force_close()
    return response
