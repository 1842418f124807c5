"""Loads through the local API: a load that waits for its host ends with its client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from gpumand.fleet import local_api
from gpumand.fleet.calls import LoadCall
from gpumand.fleet.http_server import HttpServer
from gpumand.fleet.listening import bind_unix
from gpumand.fleet.local_api import LocalApi

DEADLINE_SEC = 30.0


class WaitingRouter:
    """A router whose loads wait for a host until ``back`` is set."""

    def __init__(self) -> None:
        self.began, self.back, self.ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def load(self, call: LoadCall) -> dict[str, Any]:
        self.began.set()
        try:
            await self.back.wait()
            return {"consumer": call.consumer}
        finally:
            self.ended.set()


@pytest.fixture
async def router(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WaitingRouter]:
    async def allowed(_: object) -> None:
        """Every user may load."""

    monkeypatch.setattr(local_api, "check_local", allowed)
    made = WaitingRouter()
    api = LocalApi(cast(Any, made), cast(Any, None), "", dict, cast(Any, None))
    server = HttpServer(api.routes())
    await server.listen(bind_unix(tmp_path / "fleet.sock"))
    yield made
    made.back.set()
    await server.close()


async def asked(folder: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The connection of a client that has asked for a load."""
    reader, writer = await asyncio.open_unix_connection(folder / "fleet.sock")
    body = json.dumps({"consumer": "big", "wait_sec": 60}).encode()
    writer.write(b"POST /v1/load HTTP/1.1\r\nHost: fleet\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    return reader, writer


async def test_load_that_waits_ends_when_its_client_leaves(router: WaitingRouter, tmp_path: Path) -> None:
    _, writer = await asked(tmp_path)
    async with asyncio.timeout(DEADLINE_SEC):
        await router.began.wait()
        writer.close()
        await router.ended.wait()
    assert not router.back.is_set()


async def test_load_is_answered_while_its_client_is_there(router: WaitingRouter, tmp_path: Path) -> None:
    reader, writer = await asked(tmp_path)
    async with asyncio.timeout(DEADLINE_SEC):
        await router.began.wait()
        router.back.set()
        assert b"200 OK" in await reader.readline()
        assert b'{"consumer":"big"}' in await reader.readuntil(b"}")
    writer.close()
