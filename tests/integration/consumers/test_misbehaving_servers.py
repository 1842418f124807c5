"""A server that misbehaves over real sockets affects only its own requests."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from aiohttp import web

from gpumand.consumers import http_exchange
from gpumand.consumers.http_exchange import BODY_BYTES
from gpumand.consumers.routes import HttpRoutes
from gpumand.domain.consumer import Health
from gpumand.host.clock import SystemClock
from tests.integration.service_manager.host import until

from .servers import RawServer, Session, answer_healthy, failure_of, hang, hang_up, raw_server, spec, web_server

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


async def _reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    sock = writer.get_extra_info("socket")
    sock.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER with 0 s: close() sends RST instead of FIN


async def _garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"\x00\xffSSH-2.0-\r\n\r\n" * 10)
    await writer.drain()


async def _huge_header(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(HEAD + b"X: " + b"y" * (1 << 20) + b"\r\n\r\n")
    await writer.drain()


async def _endless_headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(HEAD)
    for number in range(10_000_000):
        writer.write(b"X-%d: %s\r\n" % (number, b"y" * 1000))
        await writer.drain()


async def _endless_interim_answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    while True:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)
        await writer.drain()
        await asyncio.sleep(0)


async def _slow_loris(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    for byte in HEAD * 1000:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.02)


async def _slow_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(HEAD + b"Content-Length: 100000\r\n\r\n")
    while True:
        writer.write(b" ")
        await asyncio.sleep(0.02)


async def _short_body(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(HEAD + b'Content-Length: 100\r\n\r\n{"loaded": true}')
    await writer.drain()


async def _bad_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
    await writer.drain()
    await reader.read(65536)


@pytest.mark.parametrize(
    ("session", "message_part"),
    [
        (hang, "no answer within 1 s"),
        (_reset, "the connection failed: Connection reset by peer|closed the connection"),
        (hang_up, "closed the connection without an answer"),
        (_garbage, "did not answer in HTTP: "),
        (_huge_header, "did not answer in HTTP: "),
        (_endless_headers, "did not answer in HTTP: "),
        (_endless_interim_answers, "no answer within 1 s|did not answer in HTTP"),
        (_slow_loris, "no answer within 1 s"),
        (_slow_body, "answered 200, but the answer did not end within 1 s"),
        (_short_body, "the answer ended early"),
        (_bad_chunks, "the answer ended early|did not answer in HTTP"),
    ],
)
async def test_misbehaving_consumer_affects_only_its_own_request(session: object, message_part: str) -> None:
    routes = HttpRoutes(SystemClock())
    async with raw_server(session) as server, web_server(answer_healthy) as healthy:  # type: ignore[arg-type]  # parametrized
        assert (await routes.probe_health(spec(healthy, "other", timeout_sec=30))).loaded is True
        # The others fail by themselves, which takes more than a second on a busy machine.
        limit_sec = 1.0 if "1 s" in message_part else 30.0
        failing = asyncio.create_task(failure_of(routes, spec(server.url, timeout_sec=limit_sec)))
        answered = 0
        while not failing.done():
            assert (await routes.probe_health(spec(healthy, "other", timeout_sec=30))).loaded is True
            answered += not failing.done()
            await asyncio.wait({failing}, timeout=0.02)
        message = await failing
        assert any(message.startswith(word) for word in message_part.split("|")), message
        assert answered or "1 s" not in message, "the other consumer had to wait"
    await routes.close()


async def test_hanging_consumer_uses_at_most_its_own_connections(routes: HttpRoutes) -> None:
    async with raw_server(hang) as server, web_server(answer_healthy) as healthy:
        hung = [asyncio.create_task(routes.probe_health(spec(server.url, timeout_sec=1.0))) for _ in range(50)]
        await asyncio.wait(hung, timeout=0.3)
        assert (await routes.probe_health(spec(healthy, "other", timeout_sec=30))).loaded is True
        answers = await asyncio.gather(*hung)
        assert server.max_connections == 4
        assert {answer.error for answer in answers} == {
            "health route: no answer within 1 s",
            "health route: earlier requests are still unanswered after 1 s",
        }


async def test_answer_in_parts_of_one_byte_leaves_turns_to_the_event_loop(
    routes: HttpRoutes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_exchange, "TURN_SEC", 0.0)
    most_parts, parts = 0, 0
    add = http_exchange._Body.add

    def counted(self: http_exchange._Body, chunk: bytes) -> None:
        nonlocal parts
        parts += 1
        add(self, chunk)

    async def note_turns() -> None:
        nonlocal most_parts, parts
        while True:
            most_parts, parts = max(most_parts, parts), 0
            await asyncio.sleep(0)

    monkeypatch.setattr(http_exchange._Body, "add", counted)
    async with raw_server(_small_parts(2000)) as server:
        turns = asyncio.create_task(note_turns())
        assert (await routes.probe_health(spec(server.url, timeout_sec=30))).reachable
        turns.cancel()
    assert 0 < most_parts < 100


async def test_answer_in_too_many_parts_is_cut_off(routes: HttpRoutes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_exchange, "MAX_PARTS", 100)
    async with raw_server(_small_parts(2000)) as server:
        answer = await routes.read(spec(server.url), "/x", 30)
    assert answer.body == b"a" * 100
    assert answer.is_cut


def _small_parts(count: int) -> Session:
    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * count + b"0\r\n\r\n")
        await writer.drain()
        await reader.read()

    return send


async def test_request_in_progress_is_not_sent_again_after_the_end(routes: HttpRoutes) -> None:
    """A request over a kept connection that gpumand itself closes must not open a new one."""

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.received.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(HEAD + b"Content-Length: 2\r\n\r\n{}")
        server.received.append(await reader.readuntil(b"\r\n\r\n"))
        await reader.read()

    async with raw_server(answer_once) as server:
        assert (await routes.probe_health(spec(server.url, timeout_sec=30))).reachable
        waiting = asyncio.create_task(routes.probe_health(spec(server.url, timeout_sec=30)))
        await until(lambda: len(server.received) == 2)
        await routes.close()
        assert "gpumand is stopping" in (await waiting).error
        assert server.connections == 1


async def test_body_that_ends_because_gpumand_stops_is_not_complete(routes: HttpRoutes) -> None:
    async def send_a_part(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + b'Connection: close\r\n\r\n{"loaded": true}')
        await reader.read()

    async with raw_server(send_a_part) as server:
        waiting = asyncio.create_task(routes.probe_health(spec(server.url, timeout_sec=30)))
        await until(lambda: _has_arrived(routes))
        await routes.close()
        assert "the answer ended early" in (await waiting).error


def _has_arrived(routes: HttpRoutes) -> bool:
    return routes._exchange is not None and any(one._taken > len(HEAD) for one in routes._exchange._active)


async def test_server_may_send_many_interim_answers(routes: HttpRoutes) -> None:
    async def process(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 102 Processing\r\n\r\n" * 900)
        writer.write(HEAD + b"Content-Length: 15\r\n\r\n" + b'{"loaded":true}')
        await writer.drain()

    async with raw_server(process) as server:
        assert (await routes.probe_health(spec(server.url, timeout_sec=30))).loaded is True


def is_connected(server: RawServer, count: int) -> bool:
    return server.connections == count


async def test_cancelled_request_releases_its_connection(routes: HttpRoutes) -> None:
    async with raw_server(hang) as server:
        for number in range(1, 7):
            task = asyncio.create_task(routes.probe_health(spec(server.url, timeout_sec=30)))
            await until(partial(is_connected, server, number))
            task.cancel()
            await asyncio.wait({task})


async def test_endless_answer_is_cut_off(routes: HttpRoutes) -> None:
    sent = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)
            sent += 65536

    async with web_server(endless) as url:
        consumer = spec(url, timeout_sec=5)
        await routes.load(consumer)  # the status is enough; the rest of the body is not read
        assert await routes.probe_health(consumer) == Health(reachable=True, status=200)
    assert sent < 2 * (8 << 20)


async def test_document_above_the_limit_is_not_interpreted(routes: HttpRoutes) -> None:
    async def large(_: web.Request) -> web.Response:
        return web.Response(body=b'{"loaded": true, "x": "' + b"x" * BODY_BYTES + b'"}')

    async with web_server(large) as url:
        assert await routes.probe_health(spec(url)) == Health(reachable=True, status=200)


async def test_document_of_exactly_the_limit_is_interpreted(routes: HttpRoutes) -> None:
    body = b'{"loaded": true, "x": "'
    body += b"x" * (BODY_BYTES - len(body) - 2) + b'"}'

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=body)

    async with web_server(handler) as url:
        assert len(body) == BODY_BYTES
        assert (await routes.probe_health(spec(url))).loaded is True
