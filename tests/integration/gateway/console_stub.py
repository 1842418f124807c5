"""The gateway's own address in the test's process, with a status that the test invents."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from gpumand.gateway.acceptor import Acceptor
from gpumand.gateway.connections import connection_of
from gpumand.gateway.console.actions import Actions
from gpumand.gateway.console.console import Console
from gpumand.gateway.console.state_view import ShownListener, StateView
from gpumand.gateway.headers import Origin
from gpumand.gateway.paths import check_target
from gpumand.gateway.requests import Client, RequestTable, WaitLimits
from gpumand.gateway.routes.classes import RouteClass


@dataclass
class Invented:
    """A source with an invented status, history and plan."""

    status: dict[str, Any]
    entries: list[dict[str, Any]] = field(default_factory=list)
    planned: dict[str, Any] = field(default_factory=dict)
    changed: Callable[[], None] = lambda: None
    hosts: dict[str, Any] | None = None

    async def fleet(self) -> dict[str, Any] | None:
        return self.hosts

    async def read(self) -> dict[str, Any]:
        return self.status

    async def listen(self, changed: Callable[[], None]) -> None:
        self.changed = changed

    async def ask(self, question: Callable[[Any], Any]) -> Any:
        return await question(self)

    async def history(self, options: Any) -> list[dict[str, Any]]:
        return self.entries

    async def plan(self, consumer: str, options: Any) -> dict[str, Any]:
        return self.planned

    async def close(self) -> None:
        pass


@contextlib.asynccontextmanager
async def invented_console(source: Invented, listeners: tuple[ShownListener, ...] = ()) -> AsyncIterator[str]:
    """A console with an invented source and one waiting request; yields the address of its page."""
    table = RequestTable(WaitLimits())
    client = Client(str(source.status["version"]), may_evict=True)
    actions, view = Actions("unix:path=/nowhere", table), StateView(table, lambda: listeners)
    console = Console(source, view, actions, str, source.fleet)  # type: ignore[arg-type]

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        connection = connection_of(request)
        connection.begin_request(request)
        target = check_target(request.method, request.raw_path)
        try:
            return await console.handle(request, connection, target, client, Origin("", request.headers["Host"]))
        finally:
            connection.end_request(is_read=True)

    table.begin_wait(table.add(client, "other", "POST", client.name, RouteClass.WORK))
    acceptor, listener = Acceptor(handle, 64), socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    server = await acceptor.open(listener, "gateway", True)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/gateway/"
    finally:
        server.close()
        await console.close()
        await acceptor.close()
