"""A server that cannot say whether it is busy counts as busy while clients are connected to it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiohttp import web

from gpumand.consumers.routes import HttpRoutes
from gpumand.domain.consumer import BusyRoute, ConsumerSpec
from gpumand.host.clock import SystemClock
from gpumand.host.container_connections import ConsumerConnections
from gpumand.testing.ports import free_port
from tests.waiting import until_answer

from .servers import web_server

SLOTS = BusyRoute("/slots", ("/running",), timeout_sec=30)
SLOTS_FOR_A_MOMENT = replace(SLOTS, timeout_sec=0.5)


@pytest.fixture
async def routes() -> AsyncIterator[HttpRoutes]:
    routes = HttpRoutes(SystemClock(), ConsumerConnections(lambda _: None))
    yield routes
    await routes.close()


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[None]:
    """A client in another process, connected to the server."""
    port = url.rpartition(":")[2]
    code = f"import socket,sys;s=socket.create_connection(('127.0.0.1',{port}));print(1,flush=True);sys.stdin.read()"
    command = [sys.executable, "-I", "-S", "-c", code]
    with await asyncio.to_thread(subprocess.Popen, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        await asyncio.to_thread(process.stdout.readline)
        yield
        process.stdin.close()


async def hang(_request: web.Request) -> web.Response:
    await asyncio.sleep(3)
    return web.Response()


async def refuse(_request: web.Request) -> web.Response:
    return web.json_response({"error": "router mode"}, status=400)


async def cannot(_request: web.Request) -> web.Response:
    """What llama-server answers without --slots."""
    return web.json_response({"error": {"code": 501, "message": "This server does not support slots"}}, status=501)


async def changed(_request: web.Request) -> web.Response:
    return web.json_response({"jobs_of_a_newer_version": 0})


async def idle(_request: web.Request) -> web.Response:
    return web.json_response({"running": 0})


@pytest.mark.parametrize(
    ("handler", "busy"),
    [
        (refuse, SLOTS),
        (cannot, SLOTS),
        (changed, SLOTS),
        (hang, SLOTS_FOR_A_MOMENT),
        (idle, BusyRoute("/slots", ("/running",), connections=True)),
        (refuse, BusyRoute(connections=True)),
    ],
    ids=[
        "answers 400",
        "answers 501",
        "answers without the value",
        "does not answer",
        "blind counter",
        "connections only",
    ],
)
async def test_clients_show_that_it_works(routes: HttpRoutes, handler: object, busy: BusyRoute) -> None:
    async with web_server(handler) as url:  # type: ignore[arg-type]
        spec = ConsumerSpec("llm", 1000, url=url, busy=busy)
        assert (await routes.probe_busy(spec)).jobs == 0, "its own connection is no client"
        assert (await routes.probe_busy(spec)).jobs == 0, "and neither is one that it has kept open"

        async def has_a_client() -> bool:
            return (await routes.probe_busy(spec)).jobs == 1

        async with client_of(url):
            await until_answer(has_a_client, "its client is counted")


async def test_answer_without_need_for_connections_is_taken_as_it_is(routes: HttpRoutes) -> None:
    async with web_server(idle) as url, client_of(url):
        assert (await routes.probe_busy(ConsumerSpec("llm", 1000, url=url, busy=SLOTS))).jobs == 0


async def test_refused_answer_stays_a_finding(routes: HttpRoutes) -> None:
    async with web_server(refuse) as url:
        report = await routes.probe_busy(ConsumerSpec("llm", 1000, url=url, busy=SLOTS))

    assert "400" in report.error


async def test_closed_port_and_other_hosts_are_not_taken_for_idle(routes: HttpRoutes) -> None:
    closed = ConsumerSpec("llm", 1000, url=f"http://127.0.0.1:{free_port()}", busy=BusyRoute(connections=True))
    other = ConsumerSpec("llm", 1000, url="http://192.0.2.1:8080", busy=BusyRoute(connections=True))

    assert (await routes.probe_busy(closed)).jobs is None
    assert (await routes.probe_busy(other)).jobs is None
