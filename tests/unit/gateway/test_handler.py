"""A request that ends before its consumer is known gets an answer with the reason."""

from __future__ import annotations

import asyncio
import re
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest
from aiohttp import web

from gpumand.gateway.acceptor import Acceptor
from gpumand.gateway.admissions import Admissions
from gpumand.gateway.config import GatewaySettings
from gpumand.gateway.handler import CLIENT_GONE, Gateway
from gpumand.gateway.headers import Origin
from gpumand.gateway.paths import BadTarget
from gpumand.gateway.refusals import refused
from gpumand.gateway.requests import Client, Entry, RequestTable, WaitLimits
from tests.unit.gateway.raw_relay import UPLOAD, accepting


class Reader:
    """Reads the body of a request before it finds a route, as the entrance does."""

    def __init__(self) -> None:
        self.reads = asyncio.Event()

    async def route(self, listener: str, target: object, request: web.BaseRequest, client: Client) -> web.Response:
        self.reads.set()
        await request.content.readexactly(request.content_length or 0)
        raise AssertionError("the body has not ended")


class Ends:
    """The requests that have ended."""

    def __init__(self) -> None:
        self.entries: asyncio.Queue[Entry] = asyncio.Queue()

    def request_ended(self, entry: Entry) -> None:
        self.entries.put_nowait(entry)


def gateway(table: RequestTable, reader: Reader, ends: Ends) -> Gateway:
    parts: Any = SimpleNamespace(settings=GatewaySettings, table=table)
    access: Any = SimpleNamespace(admit=lambda *_: (Client("127.0.0.1"), Origin("127.0.0.1", "localhost")))
    none = cast(Any, None)
    admissions = Admissions(access, table)
    return Gateway(
        parts,
        admissions,
        cast(Any, reader),
        cast(Any, ends),
        work=none,
        look=none,
        sockets=none,
        console=none,
    )


@pytest.mark.parametrize("path", [b"/", b"/v1/chat/completions", b"/api/chat"])
async def test_request_that_is_cancelled_while_its_body_is_read_is_answered_with_the_reason(path: bytes) -> None:
    table, reader, ends = RequestTable(WaitLimits()), Reader(), Ends()

    async with accepting(Acceptor(gateway(table, reader, ends).handle, 100)) as port:
        client, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(UPLOAD.replace(b"POST /", b"POST " + path))
        await reader.reads.wait()
        assert table.cancel(1, "the gateway is being stopped")
        answer = await client.readuntil(b"the gateway is being stopped")
        writer.close()

    assert answer.startswith(b"HTTP/1.1 503")
    assert ends.entries.get_nowait().status == 503


async def test_client_that_leaves_while_its_body_is_read_counts_as_gone() -> None:
    table, reader, ends = RequestTable(WaitLimits()), Reader(), Ends()

    async with accepting(Acceptor(gateway(table, reader, ends).handle, 100)) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(UPLOAD)
        await reader.reads.wait()
        writer.close()
        assert (await ends.entries.get()).status == CLIENT_GONE


class Cleaner:
    """Waits, and cleans up when it is cancelled."""

    def __init__(self) -> None:
        self.waits, self.cleans, self.may_end = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.is_clean = False

    async def route(self, *_: object) -> web.Response:
        self.waits.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.cleans.set()
            await self.may_end.wait()
            self.is_clean = True
        raise AssertionError("nothing is routed")


async def test_second_reload_does_not_interrupt_the_end_of_a_request_that_the_first_one_refused() -> None:
    table, router, ends = RequestTable(WaitLimits()), Cleaner(), Ends()
    made = gateway(table, cast(Any, router), ends)
    admissions = made._admissions

    def refuse(*_: object) -> NoReturn:
        raise refused(401, "key_wrong", "This API key is not known.")

    async with accepting(Acceptor(made.handle, 100)) as port:
        client, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await router.waits.wait()
        admissions._access = cast(Any, SimpleNamespace(admit=refuse))
        admissions.check()
        await router.cleans.wait()
        admissions.check()
        await asyncio.sleep(0)
        router.may_end.set()
        answer = await client.readuntil(b"This API key is not known.")
        writer.close()

    assert answer.startswith(b"HTTP/1.1 401")
    assert router.is_clean


@pytest.mark.parametrize(
    ("error", "status"), [(BadTarget("the path contains an encoded slash"), 400), (RuntimeError("a defect"), 500)]
)
async def test_request_that_its_route_refuses_is_logged_and_counted_with_the_status_of_its_answer(
    error: Exception, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    table, ends = RequestTable(WaitLimits()), Ends()

    async def route(*_: object) -> NoReturn:
        raise error

    made = gateway(table, cast(Any, SimpleNamespace(route=route)), ends)
    made._parts.settings = lambda: GatewaySettings(access_log=True)
    caplog.set_level("INFO", "gpumand.gateway.access_log")
    async with accepting(Acceptor(made.handle, 100)) as port:
        client, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /a%2Fb HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = await client.readuntil(b"\r\n")
        writer.close()

    assert answer.startswith(f"HTTP/1.1 {status}".encode())
    assert ends.entries.get_nowait().status == status
    (line,) = (one.getMessage() for one in caplog.records if one.name.endswith("access_log"))
    assert re.search(rf" GET /a%2Fb {status}: ", line)


async def test_cancelled_work_of_a_client_whose_key_was_revoked_is_answered_with_the_reason_of_its_end() -> None:
    table, router, ends = RequestTable(WaitLimits()), Cleaner(), Ends()
    router.may_end.set()
    async with accepting(Acceptor(gateway(table, cast(Any, router), ends).handle, 100)) as port:
        client, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await router.waits.wait()
        (entry,) = table
        entry.is_working = True
        table.refuse(entry, refused(401, "key_wrong", "This API key is not known.").refusal)
        table.cancel(entry.number, "the card is needed")
        answer = await client.readuntil(b"The request was cancelled: the card is needed.")
        writer.close()

    assert answer.startswith(b"HTTP/1.1 503")
    assert ends.entries.get_nowait().status == 503
