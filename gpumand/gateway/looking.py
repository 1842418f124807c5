"""Handles requests that need no lease: class look, and class page, which loads a stopped service for browsers."""

from __future__ import annotations

import asyncio

import aiohttp
from multidict import CIMultiDictProxy

from gpumand.client.errors import GpumandError
from gpumand.gateway import forward, web
from gpumand.gateway.access import foreign_site
from gpumand.gateway.exchange import Exchange, accepts
from gpumand.gateway.headers import response_headers
from gpumand.gateway.held_bodies import HeldBody, read_small_body
from gpumand.gateway.looks import Answer, Key, Memory, SharedAnswers, is_question, key_of, may_be_small, read_small
from gpumand.gateway.parts import Parts
from gpumand.gateway.refusals import Refused, refusal_of, refused
from gpumand.gateway.requests import Client
from gpumand.gateway.routes.classes import RouteClass
from gpumand.gateway.status_view import CURRENT_SEC
from gpumand.gateway.stopped_lists import StoppedLists
from gpumand.gateway.upstream import Endpoint, UpstreamDown, endpoint_of
from gpumand.gateway.visibility import may_see, reason_for, refusal_for, text_for
from gpumand.gateway.waiting_page import Waiting, waiting_page
from gpumand.gateway.wakes import Wake, Wakes

NOT_RUNNING = "not_running"
"""Code of the refusal of a request whose consumer does not run."""

NOT_RUNNING_RETRY_SEC = 5


class LookHandler:
    """Handles requests of the classes look and page.

    Args:
        parts: what all handlers share.
        wakes: loads consumers for pages.
        lists: the lists of consumers whose server is stopped.
    """

    def __init__(self, parts: Parts, wakes: Wakes, lists: StoppedLists) -> None:
        self._parts, self._wakes, self._lists = parts, wakes, lists
        self._shared, self._memory = SharedAnswers(), Memory()

    async def handle(self, exchange: Exchange) -> web.StreamResponse:
        """Answer a request without a lease, from the consumer if its server runs. Raises Refused."""
        endpoint = await self.endpoint(exchange)
        if is_question(exchange) and exchange.body is None:
            text = await read_small_body(exchange.request)
            exchange.body = HeldBody(data=lambda: text, length=len(text))
        try:
            return await self._pass(exchange, endpoint)
        except UpstreamDown:
            refusal = not_running(exchange.service.consumer)
        except Refused as error:
            # A server that is being stopped ends connections without an answer.
            refusal = error
        if (remembered := self._memory.find(exchange)) is not None:
            return remembered.response()
        if (listed := self._lists.answer(exchange)) is not None:
            return listed
        if exchange.entry.kind is RouteClass.PAGE and accepts(exchange.request, "text/html"):
            if exchange.is_foreign:
                raise foreign_site()
            return await self._page(exchange)
        raise refusal

    async def endpoint(self, exchange: Exchange) -> Endpoint:
        """Where the consumer is. Raises Refused."""
        name = exchange.service.consumer
        consumer = await self._parts.status.consumer(name)
        if consumer is not None:
            return endpoint_of(name, consumer.endpoint)
        if absence := self._parts.absence():
            raise refused(503, "unavailable", f"gpumand cannot be reached: {absence}", NOT_RUNNING_RETRY_SEC)
        text = f"gpumand has no consumer {name}. Configure it, or change the listener's consumer key."
        raise refused(503, "no_such_consumer", text)

    async def _pass(self, exchange: Exchange, endpoint: Endpoint) -> web.StreamResponse:
        key = key_of(exchange)
        if key is None:
            return await (self._ask if is_question(exchange) else self._stream)(exchange, endpoint)
        found = self._shared.find(key)
        if found is None:
            return await self._fetch(exchange, endpoint, key)
        # A client that leaves cancels its own wait, and not the answer that others wait for.
        answer = await asyncio.shield(found)
        return answer.response() if answer is not None else await self._stream(exchange, endpoint)

    async def _stream(self, exchange: Exchange, endpoint: Endpoint) -> web.StreamResponse:
        answer = await forward.begin(exchange, self._parts.upstreams, endpoint, None)
        try:
            return await forward.relay(exchange, answer, endpoint)
        finally:
            forward.finish(answer)

    async def _ask(self, exchange: Exchange, endpoint: Endpoint) -> web.StreamResponse:
        """Pass a question on and keep its answer for the time when the server is stopped."""
        answer = await forward.begin(exchange, self._parts.upstreams, endpoint, None)
        try:
            if not may_be_small(answer):
                return await forward.relay(exchange, answer, endpoint)
            body, is_complete = await _read(answer)
            if not is_complete:
                return await forward.relay(exchange, answer, endpoint, body)
            return self._keep(exchange, answer, endpoint, body).response()
        finally:
            forward.finish(answer)

    async def _fetch(self, exchange: Exchange, endpoint: Endpoint, key: Key) -> web.StreamResponse:
        """Fetch an answer that identical requests wait for."""
        future = self._shared.begin(key)
        kept: Answer | None = None
        try:
            answer = await forward.begin(exchange, self._parts.upstreams, endpoint, None)
            try:
                if not may_be_small(answer):
                    self._shared.end(key, future, None)
                    return await forward.relay(exchange, answer, endpoint)
                body, is_complete = await _read(answer)
                if not is_complete:
                    self._shared.end(key, future, None)
                    return await forward.relay(exchange, answer, endpoint, body)
                found = self._keep(exchange, answer, endpoint, body)
                kept = found if found.may_be_shared else None
                return found.response()
            finally:
                forward.finish(answer)
        finally:
            self._shared.end(key, future, kept)

    def _keep(self, exchange: Exchange, answer: aiohttp.ClientResponse, endpoint: Endpoint, body: bytes) -> Answer:
        headers = response_headers(answer.raw_headers, exchange.origin, endpoint.origin)
        headers.popall("Content-Length", None)
        kept = Answer(answer.status, answer.reason or "", CIMultiDictProxy(headers), body)
        self._memory.keep(exchange, kept)
        if kept.status == 200:
            self._lists.observe(exchange, endpoint)
        return kept

    # -- pages ---------------------------------------------------------------------------------------------------

    async def _page(self, exchange: Exchange) -> web.StreamResponse:
        service = exchange.service
        wake = self._wakes.request(service.consumer, await self._parts.priority(exchange), exchange.label)
        waiting = await self._waiting(exchange.client, service.consumer, wake)
        return waiting_page(waiting, head_only=exchange.request.method == "HEAD")

    async def _waiting(self, client: Client, name: str, wake: Wake) -> Waiting:
        status = await self._parts.status.get(CURRENT_SEC)
        names = tuple(one.name for one in status.consumers) if status else ()
        consumer = status.consumer(name) if status else None
        place, total = await self._parts.status.place(name)
        return Waiting(
            consumer=name,
            doing=text_for(client, (consumer.doing if consumer else "") or self._parts.absence(), names),
            place=place.position if place else 0,
            queue=total,
            waiting_for=reason_for(client, place.waiting_for if place else ""),
            unloading=tuple(
                one.name
                for one in (status.consumers if status else ())
                if one.residency == "unloading" and may_see(client, one.name)
            ),
            usual_sec=await self._parts.status.usual_load_sec(name),
            error=load_error(client, wake.error, name, names),
        )


def load_error(client: Client, error: GpumandError | None, consumer: str, names: tuple[str, ...]) -> str:
    """Why a load for a page failed, as a client may read it; "" while it goes on."""
    return "" if error is None else refusal_for(client, refusal_of(error, 0), consumer, names).message


async def _read(answer: aiohttp.ClientResponse) -> tuple[bytes, bool]:
    try:
        return await read_small(answer)
    except (aiohttp.ClientError, OSError):
        raise refused(502, "bad_gateway", "The service ended its answer early. Check its log.", 1) from None


def not_running(consumer: str) -> Refused:
    """The refusal for a consumer whose server does not run."""
    text = f"{consumer} is not running. A request that uses it starts it."
    return refused(503, NOT_RUNNING, text, NOT_RUNNING_RETRY_SEC)
