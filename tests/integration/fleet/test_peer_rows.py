"""An agent that is slow, broken or hostile costs limited time and memory, and is named."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from gpumand.fleet.peer_rows import PeerRows, PeerUnreachable
from gpumand.fleet.row_json import encode_host
from tests.integration.fleet.plain_etcd import listen
from tests.unit.fleet.rows import row

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Serve = Callable[[Answer], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    runners: list[web.ServerRunner] = []

    async def start(answer: Answer) -> str:
        runners.append(web.ServerRunner(web.Server(answer), shutdown_timeout=0))
        await runners[-1].setup()
        return await listen(runners[-1])

    yield start
    for one in runners:
        await one.cleanup()


@pytest.fixture
async def peers() -> AsyncIterator[PeerRows]:
    found = PeerRows()
    yield found
    await found.close()


def answers(text: str, **options: object) -> Answer:
    async def answer(request: web.BaseRequest) -> web.Response:
        assert request.path == "/v1/row"
        return web.Response(text=text, **options)  # type: ignore[arg-type]

    return answer


async def test_row_of_an_agent_is_read(serve: Serve, peers: PeerRows) -> None:
    assert await peers.read(await serve(answers(encode_host(row())))) == row()


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", {}),
        ("<html>", {}),
        (encode_host(row()), {"status": 403}),
        ("", {"status": 302, "headers": {"Location": "/v1/row"}}),
        (json.dumps({"id": "x", "api": 1}), {}),
        (" " * 10_000_000, {}),
    ],
    ids=["empty", "HTML", "forbidden", "redirect", "invalid", "too large"],
)
async def test_answer_without_a_row_is_no_row(serve: Serve, peers: PeerRows, text: str, options: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(PeerUnreachable) as caught:
        await peers.read(await serve(answers(text, **options)))
    assert "\n" not in str(caught.value)


async def test_agent_that_drips_is_given_up(serve: Serve, peers: PeerRows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpumand.fleet.peer_rows.ANSWER_SEC", 0.3)

    async def drip(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while request.transport is not None and not request.transport.is_closing():
            await response.write(b" ")
            await asyncio.sleep(0.05)
        return response

    with pytest.raises(PeerUnreachable, match="no answer in time"):
        await peers.read(await serve(drip))


@pytest.mark.parametrize("url", ["https://127.0.0.1:1", "file:///etc/passwd", "", "http://", "http://127.0.0.1:1"])
async def test_url_that_cannot_be_used_is_no_row(peers: PeerRows, url: str) -> None:
    with pytest.raises(PeerUnreachable):
        await peers.read(url)
