"""Handles requests that use a model: class work, and class job, whose work goes on after the answer."""

from __future__ import annotations

import asyncio

import aiohttp

from gpumand.gateway import forward, web
from gpumand.gateway.bodies import BodyBudget, is_read_early, parse, read_early
from gpumand.gateway.dialects import Dialect, dialect_of, is_unload, unload_answer
from gpumand.gateway.exchange import Exchange
from gpumand.gateway.holding import Holder
from gpumand.gateway.job_holder import JobHolder
from gpumand.gateway.job_records import JobRecord
from gpumand.gateway.parts import Parts
from gpumand.gateway.refusals import NotDelivered, Refused, refused
from gpumand.gateway.requests import NAMED_MODEL
from gpumand.gateway.routes.classes import RouteClass
from gpumand.gateway.upstream import Endpoint, UpstreamDown

CONNECT_AGAIN_SEC = 5.0
"""How long a consumer may refuse connections after its lease was granted: a unit counts as started before its server
listens, if it has no health check."""

CONNECT_PAUSE_SEC = 0.25


class WorkHandler:
    """Handles requests of the classes work and job.

    Args:
        parts: what all handlers share.
        jobs: holds the leases of jobs.
        bodies: limits the memory of bodies that were read early.
    """

    def __init__(self, parts: Parts, jobs: JobHolder, bodies: BodyBudget) -> None:
        self._parts, self._jobs, self._bodies = parts, jobs, bodies

    async def handle(self, exchange: Exchange) -> web.StreamResponse:
        """Answer a request under a lease. Raises Refused."""
        if exchange.body is not None:
            return await self._with_document(exchange, exchange.body.document, None)
        if not is_read_early(exchange.request, exchange.target):
            return await self._under_lease(exchange, None)
        with self._bodies.reserve(exchange.request.content_length or 0):
            return await self._with_body(exchange, await read_early(exchange.request))

    async def _with_body(self, exchange: Exchange, body: bytes) -> web.StreamResponse:
        document = parse(body)
        if isinstance(document, dict) and isinstance(model := document.get("model"), str):
            exchange.request[NAMED_MODEL] = model
        return await self._with_document(exchange, document, body)

    async def _with_document(self, exchange: Exchange, document: object, body: bytes | None) -> web.StreamResponse:
        if is_unload(exchange.target.path, document):
            # Ollama would unload a model that other requests hold a lease for.
            return web.Response(body=unload_answer(exchange.target.path, document), content_type="application/json")
        exchange.dialect = _merged(exchange.dialect, dialect_of(exchange.target.path, document))
        return await self._under_lease(exchange, body)

    async def _under_lease(self, exchange: Exchange, body: bytes | None) -> web.StreamResponse:
        holder = self._parts.holder(exchange)
        slot = await self._parts.slot(exchange, holder)
        try:
            return await self._in_slot(exchange, body, holder)
        finally:
            slot.leave()

    async def _in_slot(self, exchange: Exchange, body: bytes | None, holder: Holder) -> web.StreamResponse:
        ticket = await self._parts.join(exchange)
        job: JobRecord | None = None
        try:
            endpoint = await self._parts.granted(exchange, ticket, holder)
            job = self._jobs.begin(exchange, ticket) if exchange.entry.kind is RouteClass.JOB else None
            return await self._answer(exchange, endpoint, body, holder)
        finally:
            # The server may work on a job although its answer never arrived.
            if job is not None and exchange.entry.status < 400:
                self._jobs.hold(exchange, ticket, job)
            else:
                ticket.leave()
                if job is not None:
                    self._jobs.drop(job)

    async def _answer(
        self, exchange: Exchange, endpoint: Endpoint, body: bytes | None, holder: Holder
    ) -> web.StreamResponse:
        answer = await self._begin(exchange, endpoint, body, holder)
        try:
            return await forward.relay(exchange, answer, endpoint)
        finally:
            forward.finish(answer)

    async def _begin(
        self, exchange: Exchange, endpoint: Endpoint, body: bytes | None, holder: Holder
    ) -> aiohttp.ClientResponse:
        """Send the request; a consumer that refuses the connection gets a few seconds to begin to listen."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + CONNECT_AGAIN_SEC
        while True:
            try:
                return await self._begin_once(exchange, endpoint, body, holder)
            except UpstreamDown:
                if clock() >= deadline:
                    # A job that was never delivered needs no lease.
                    exchange.entry.status = 502
                    text = f"{exchange.service.consumer} does not accept connections at {endpoint.base}. Check its log."
                    raise refused(502, "bad_gateway", text, 1) from None
            except Refused as error:
                if isinstance(error, NotDelivered) or error.refusal.status < 500:
                    # The consumer got nothing of the request, or a part only by the client's fault: it has no job.
                    exchange.entry.status = error.refusal.status
                raise
            await asyncio.sleep(CONNECT_PAUSE_SEC)

    async def _begin_once(
        self, exchange: Exchange, endpoint: Endpoint, body: bytes | None, holder: Holder
    ) -> aiohttp.ClientResponse:
        work = forward.begin(exchange, self._parts.upstreams, endpoint, body)
        if holder.is_silent:
            return await work
        task = asyncio.ensure_future(work)
        try:
            return await holder.wait(task, is_limited=False)
        except BaseException:
            task.cancel()
            raise


def _merged(before: Dialect, found: Dialect) -> Dialect:
    """The dialect by the body; that of the headers where the path belongs to no API."""
    return found if found.content_type else before
