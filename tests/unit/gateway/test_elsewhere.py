"""Which host serves a consumer that may be loaded on one host of the fleet only."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web

from gpumand.gateway.catalog import Catalog, Lists
from gpumand.gateway.elsewhere import Elsewhere, ElsewhereHandler, FleetRoutes
from gpumand.gateway.fleet import Fleet, OtherHost
from gpumand.gateway.fleet_config import FleetSettings
from gpumand.gateway.models import Choice, Offer, offers_of
from gpumand.gateway.paths import Target
from gpumand.gateway.refusals import Refused
from gpumand.gateway.upstream import Endpoint, Upstreams
from tests.unit.gateway.raw_relay import OK, ask, exchange_of, front, server

GPU2 = OtherHost("gpu2", Endpoint("http://gpu2:8770", "http://gpu2:8770"))
TARGET = Target("/v1/chat/completions", "/v1/chat/completions")


class ScriptedFleet:
    """A fleet that places every request on one host; "" = it does not answer."""

    local_name = "gpu1"

    def __init__(self, placed_on: str) -> None:
        self._placed_on = placed_on

    async def placed(self, consumer: str, without: Collection[str] = ()) -> str:
        return self._placed_on

    async def place(self, consumer: str, without: Collection[str] = ()) -> OtherHost | None:
        return (await self.others()).get(self._placed_on)

    async def others(self) -> dict[str, OtherHost]:
        return {"gpu2": GPU2}


async def route(placed_on: str, *, unique: bool = True, resident: bool = False) -> Elsewhere | None:
    routes = FleetRoutes(cast(Any, ScriptedFleet(placed_on)))
    offer = Offer("chat", resident, Lists(), is_unique=unique)
    return await routes.for_consumer(Choice("chat", "m"), [offer], TARGET)


@pytest.mark.parametrize("placed_on", ["", "gpu9"])
async def test_unique_consumer_is_not_served_here_while_the_fleet_does_not_decide(placed_on: str) -> None:
    with pytest.raises(Refused) as refusal:
        await route(placed_on)
    assert (refusal.value.refusal.status, refusal.value.refusal.code) == (503, "fleet_unavailable")
    assert await route(placed_on, unique=False) is None


async def test_unique_consumer_is_served_where_the_fleet_places_it_and_nowhere_else() -> None:
    assert await route("gpu1") is None
    found = await route("gpu2")
    assert found is not None
    assert (found.host, found.is_here) == (GPU2, False)


async def test_unique_consumer_that_is_loaded_here_is_served_here() -> None:
    assert await route("", resident=True) is None


def test_offers_with_current_lists_keep_what_else_is_known() -> None:
    offer = Offer("chat", True, Lists(), is_listed=False, speaks_ollama=True, is_unique=True)
    assert offers_of(Catalog(), [offer]) == [offer]


@pytest.mark.parametrize("consumers", [None, frozenset({"chat", "tts"})])
async def test_other_gateway_learns_that_a_client_may_not_see_everything(consumers: frozenset[str] | None) -> None:
    sent: list[str] = []

    async def answer(head: bytes, writer: Any) -> None:
        sent.append(head.decode())
        writer.write(OK)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        exchange = exchange_of(request)
        exchange.entry.client = replace(exchange.client, consumers=consumers)
        found = await handler.handle(exchange, Elsewhere(OtherHost("gpu2", one.endpoint), "chat", "/x", False))
        assert found is not None
        return found

    upstreams = Upstreams()
    handler = ElsewhereHandler(Fleet(FleetSettings, upstreams), upstreams)
    head = b"GET /x HTTP/1.1\r\nHost: localhost\r\nX-Gpumand-Limit: all\r\nConnection: close\r\n\r\n"
    async with server(answer) as one, front(handle) as (_, port):
        got = await ask(port, head)
    await upstreams.close()

    assert got.startswith(b"HTTP/1.1 200 ")
    limits = [line for line in sent[0].split("\r\n") if line.lower().startswith("x-gpumand-limit")]
    assert limits == ([] if consumers is None else ["X-Gpumand-Limit: chat"])


async def test_rows_of_many_hosts_are_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gpumand-fleet keeps 256 rows of up to 64 KiB; a gateway that refused them would lose the whole fleet."""
    monkeypatch.setattr("gpumand.gateway.fleet.CALL_SEC", 30.0)  # the test is not about time
    big = [{"state": "up", "row": {"name": f"gpu{number}", "extra": "x" * 60_000}} for number in range(100)]
    body = json.dumps({"hosts": [*big, {"state": "up", "row": {"name": "last", "gateway": "http://last:8770"}}]})
    text = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body.encode())

    async def answer(_: bytes, writer: Any) -> None:
        writer.write(text)

    path = tmp_path / "fleet.sock"
    async with server(answer, path):
        upstreams = Upstreams()
        fleet = Fleet(lambda: FleetSettings(enabled=True, socket=str(path)), upstreams)
        try:
            assert list(await fleet.others()) == ["last"], await fleet.document()
        finally:
            await fleet.close()
            await upstreams.close()
