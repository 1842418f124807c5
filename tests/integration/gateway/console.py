"""A gateway with an address of its own, in front of fake services."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.integration.gateway.conftest import Front, front
from tests.integration.gateway.live_gateway import free_port


@dataclass
class Board:
    """The gateway's own address.

    Attributes:
        front: the gateway, its daemon and its service.
        url: the own address over TCP, without a slash at its end.
        root: a client of the own address over a Unix socket, as root.
    """

    front: Front
    url: str
    root: aiohttp.ClientSession

    async def get(self, path: str, **headers: str) -> Any:
        """The JSON document at a path below /gateway/v1/."""
        async with self.front.session.get(f"{self.url}/gateway/v1/{path}", headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def post(self, path: str, body: Any = None, *, as_root: bool = True, **headers: str) -> tuple[int, Any]:
        """Post a JSON object; returns the status and the document of the answer."""
        session, base = (self.root, "http://localhost") if as_root else (self.front.session, self.url)
        sent = {"Content-Type": "application/json"} | headers
        url = f"{base}/gateway/v1/{path}"
        async with session.post(url, data=json.dumps(body or {}), headers=sent) as answer:
            return answer.status, await answer.json() if answer.content_type == "application/json" else {}

    async def request(self, method: str, path: str, **headers: str) -> aiohttp.ClientResponse:
        """Send a request without following redirects; returns the answer, whose body was read."""
        url, session = self.url + path, self.front.session
        async with session.request(method, url, headers=headers, allow_redirects=False) as answer:
            await answer.read()
            return answer


@contextlib.asynccontextmanager
async def board(folder: Path, keys: str = "", listener: str = "", consumer: str = "") -> AsyncIterator[Board]:
    """A running gateway with an address of its own."""
    port, path = free_port(), folder / "own.sock"
    own = f'listen = ["127.0.0.1:{port}", "unix:{path}"]\n'
    connector = aiohttp.UnixConnector(path=str(path), limit=0)
    async with (
        front(folder, listener, own + keys, consumer) as made,
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as root,
    ):
        yield Board(made, f"http://127.0.0.1:{port}", root)
