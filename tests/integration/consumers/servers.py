"""HTTP and TCP servers for tests, each on its own port."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from gpumand.consumers.routes import HttpRoutes
from gpumand.domain.consumer import ConsumerSpec, HealthRoute, Route
from gpumand.ports import RouteFailed

Session = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True)
class RawServer:
    """State of a TCP server: number of connections so far, and the highest number at one time."""

    url: str
    connections: int = 0
    max_connections: int = 0
    received: list[bytes] = field(default_factory=list)


@contextlib.asynccontextmanager
async def raw_server(session: Session) -> AsyncIterator[RawServer]:
    """Run a TCP server that handles each connection by ``session``; at the end all connections are aborted."""
    raw = RawServer("")
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        raw.connections += 1
        raw.max_connections = max(raw.max_connections, len(tasks))
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await session(reader, writer)
        writer.transport.abort()
        tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    raw.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield raw
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def web_server(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]], socket_path: Path | None = None
) -> AsyncIterator[str]:
    """Run an HTTP server, on a Unix socket if a path is given, that handles every path by ``handler``.

    Yields its URL.
    """
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.UnixSite(runner, socket_path) if socket_path else web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://unix:{socket_path}" if socket_path else f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def spec(url: str, name: str = "c", timeout_sec: float = 0.4, path: str = "/x", **more: object) -> ConsumerSpec:
    """Return a consumer at this URL with a health, a load and an unload route."""
    return ConsumerSpec(
        name,
        1024,
        url=url,
        health=HealthRoute(path, "/loaded", last_used="/last_used", timeout_sec=timeout_sec),
        load=Route(path, timeout_sec=timeout_sec),
        unload=Route(path, timeout_sec=timeout_sec, json={"all": True}, headers=(("X-Key", "secret"),)),
    )


async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    while await reader.read(65536):
        pass


async def hang_up(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def answer_healthy(_: web.Request) -> web.Response:
    return web.json_response({"loaded": True})


async def failure_of(routes: HttpRoutes, consumer: ConsumerSpec) -> str:
    """Return the error message of load, unload and probe, which must be the same."""
    with pytest.raises(RouteFailed) as load:
        await routes.load(consumer)
    with pytest.raises(RouteFailed) as unload:
        await routes.unload(consumer)
    health = await routes.probe_health(consumer)
    assert not health.reachable
    message = str(load.value).removeprefix("load route").removeprefix(":").strip()
    assert str(unload.value).removeprefix("unload route").removeprefix(":").strip() == message
    assert health.error.removeprefix("health route").removeprefix(":").strip() == message
    assert message.isprintable()
    assert health.refused == load.value.refused
    return message
