"""The lease of a job is held only where the server may have received the job."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from gpumand.gateway import working
from gpumand.gateway.bodies import BodyBudget
from gpumand.gateway.exchange import Exchange
from gpumand.gateway.refusals import NotDelivered, Refusal, Refused, refused
from gpumand.gateway.routes.classes import RouteClass
from gpumand.gateway.upstream import Endpoint, UpstreamDown
from gpumand.gateway.working import WorkHandler
from tests.unit.gateway.raw_relay import GET, ask, exchange_of, front


class Records:
    """What happened to the lease of a job."""

    def __init__(self, failure: Exception) -> None:
        self.events: list[str] = []
        self._failure = failure
        self.upstreams = self
        self.is_silent = True

    def begin(self, *_: object) -> str:
        self.events.append("recorded")
        return "job"

    def drop(self, job: str) -> None:
        self.events.append("dropped")

    def hold(self, exchange: object, ticket: object, job: str) -> None:
        self.events.append(f"held {job}")

    def leave(self) -> None:
        self.events.append("left")

    def holder(self, exchange: Exchange) -> Records:
        return self

    async def join(self, exchange: Exchange) -> Records:
        return self

    async def slot(self, exchange: Exchange, holder: object) -> Any:
        return SimpleNamespace(leave=lambda: None)

    async def granted(self, *_: object) -> Endpoint:
        return Endpoint("http://127.0.0.1:1", "http://127.0.0.1:1")

    async def request(self, *_: object) -> Any:
        raise self._failure


@pytest.mark.parametrize(
    ("failure", "events"),
    [
        (UpstreamDown(), ["recorded", "left", "dropped"]),
        (refused(408, "slow_body", "The client has sent nothing."), ["recorded", "left", "dropped"]),
        (NotDelivered(Refusal(502, "bad_gateway", "The TLS handshake failed.")), ["recorded", "left", "dropped"]),
        (refused(400, "invalid_body", "The body ended early."), ["recorded", "left", "dropped"]),
        (refused(502, "bad_gateway", "The service closed the connection without an answer."), ["recorded", "held job"]),
        (asyncio.CancelledError(), ["recorded", "held job"]),
    ],
)
async def test_lease_of_a_job_whose_request_failed(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, events: list[str]
) -> None:
    monkeypatch.setattr(working, "CONNECT_AGAIN_SEC", 0.0)
    records: Any = Records(failure)
    handler = WorkHandler(records, records, BodyBudget())

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        exchange = exchange_of(request)
        exchange.entry.kind = RouteClass.JOB
        with pytest.raises((Refused, asyncio.CancelledError)):
            await handler.handle(exchange)
        return web.Response(text="done")

    async with front(handle) as (_, port):
        answer = await ask(port, GET)

    assert answer.endswith(b"done")
    assert records.events == events
