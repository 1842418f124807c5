"""HttpRoutes over real sockets: a misbehaving consumer affects only its own requests."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from gpumand.consumers.http_exchange import BODY_BYTES, STREAM_BYTES
from gpumand.consumers.routes import HttpRoutes
from gpumand.domain.consumer import ConsumerSpec, Health, HealthRoute, Route
from gpumand.host.clock import SystemClock
from gpumand.ports import RouteFailed
from tests.integration.service_manager.host import until

from .servers import free_port, raw_server, spec, web_server

_SELF_SIGNED = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=127.0.0.1 -days 2"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.fixture
async def routes() -> AsyncIterator[HttpRoutes]:
    routes = HttpRoutes(SystemClock())
    yield routes
    await routes.close()


async def _failure(routes: HttpRoutes, consumer: ConsumerSpec) -> str:
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


async def test_requests_are_sent_as_the_routes_define(routes: HttpRoutes) -> None:
    received: list[tuple[str, str, bytes, str]] = []

    async def handler(request: web.Request) -> web.Response:
        received.append((request.method, request.raw_path, await request.read(), request.headers.get("X-Key", "")))
        assert request.headers["User-Agent"].startswith("gpumand/")
        assert "Cookie" not in request.headers
        response = web.json_response({"loaded": True, "last_used": 1_700_000_000})
        response.set_cookie("session", "1")
        return response

    async with web_server(handler) as url:
        consumer = spec(url + "/prefix/", path="/a%2Fb?level=1")
        await routes.load(consumer)
        await routes.unload(consumer)
        assert await routes.probe_health(consumer) == Health(True, True, 1_700_000_000_000_000, status=200)
    path = "/prefix/a%2Fb?level=1"
    assert received == [("POST", path, b"", ""), ("POST", path, b'{"all": true}', "secret"), ("GET", path, b"", "")]


async def test_probes_reuse_their_connection(routes: HttpRoutes) -> None:
    async def keep_answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(HEAD + b'Content-Length: 15\r\n\r\n{"loaded":true}')

    async with raw_server(keep_answering) as server:
        for _ in range(3):
            assert (await routes.probe_health(spec(server.url))).loaded is True
        assert server.connections == 1


async def test_closed_port_is_reported_as_refused(routes: HttpRoutes) -> None:
    port = free_port()
    message = await _failure(routes, spec(f"http://127.0.0.1:{port}"))
    assert message == f"nothing listens on 127.0.0.1:{port} (connection refused)"
    assert (await routes.probe_health(spec(f"http://127.0.0.1:{port}"))).refused


async def test_closed_port_of_a_host_name_is_reported_as_refused(routes: HttpRoutes) -> None:
    health = await routes.probe_health(spec(f"http://localhost:{free_port()}"))
    assert (health.reachable, health.refused) == (False, True)


async def test_unknown_host_is_not_reported_as_refused(routes: HttpRoutes) -> None:
    message = await _failure(routes, spec("http://no-such-host.invalid:80", timeout_sec=20))
    assert message.startswith("host name 'no-such-host.invalid' cannot be resolved")
    assert not (await routes.probe_health(spec("http://no-such-host.invalid:80", timeout_sec=20))).refused


@pytest.mark.parametrize("url", ["", "ftp://127.0.0.1/", "http://[", "http://\x00/"])
async def test_unusable_url_is_reported(routes: HttpRoutes, url: str) -> None:
    assert "URL" in await _failure(routes, spec(url)) or url == "http://\x00/"


async def test_header_with_a_line_break_fails_the_request(routes: HttpRoutes) -> None:
    async with web_server(_healthy) as url:
        bad = ConsumerSpec("c", 1, url=url, load=Route("/", headers=(("X-Key", "a\r\nX-Evil: 1"),)))
        with pytest.raises(RouteFailed, match="failed"):
            await routes.load(bad)


async def test_missing_routes_are_reported(routes: HttpRoutes) -> None:
    bare = ConsumerSpec("c", 1, url="http://127.0.0.1:1")
    with pytest.raises(RouteFailed, match="no load route"):
        await routes.load(bare)
    with pytest.raises(RouteFailed, match="no unload route"):
        await routes.unload(bare)
    assert not (await routes.probe_health(bare)).reachable


async def test_error_answer_is_quoted(routes: HttpRoutes) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=500, text="CUDA out\nof memory " + "x" * 1000)

    async with web_server(handler) as url:
        message = await _failure(routes, spec(url))
    assert message.startswith("answered 500 Internal Server Error: CUDA out of memory xxx")
    assert len(message) < 300


async def test_redirect_is_reported_and_not_followed(routes: HttpRoutes) -> None:
    received: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        received.append(request.path)
        return web.json_response({"loaded": True})

    async with web_server(elsewhere) as other_url:

        async def redirect(_: web.Request) -> web.Response:
            raise web.HTTPTemporaryRedirect(f"{other_url}/stolen")

        async with web_server(redirect) as url:
            message = await _failure(routes, spec(url))
        assert (
            message == f"answered 307 Temporary Redirect, a redirect to {other_url}/stolen; redirects are not followed"
        )
    assert received == []


async def test_proxies_of_the_environment_are_not_used(routes: HttpRoutes, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    async with web_server(_healthy) as url:
        assert (await routes.probe_health(spec(url))).loaded is True


async def _hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    while await reader.read(65536):
        pass


async def _reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    sock = writer.get_extra_info("socket")
    sock.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")  # SO_LINGER with 0 s: close() sends RST instead of FIN


async def _hang_up(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


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
        (_hang, "no answer within 1 s"),
        (_reset, "the connection failed: Connection reset by peer|closed the connection"),
        (_hang_up, "closed the connection without an answer"),
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
    async with raw_server(session) as server, web_server(_healthy) as healthy:  # type: ignore[arg-type]  # parametrized
        assert (await routes.probe_health(spec(healthy, "other"))).loaded is True
        failing = asyncio.create_task(_failure(routes, spec(server.url, timeout_sec=1.0)))
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
    async with raw_server(_hang) as server, web_server(_healthy) as healthy:
        hung = [asyncio.create_task(routes.probe_health(spec(server.url, timeout_sec=1.0))) for _ in range(50)]
        await asyncio.wait(hung, timeout=0.3)
        assert (await routes.probe_health(spec(healthy, "other"))).loaded is True
        answers = await asyncio.gather(*hung)
        assert server.max_connections == 4
        assert {answer.error for answer in answers} == {
            "health route: no answer within 1 s",
            "health route: earlier requests are still unanswered after 1 s",
        }


async def test_cancelled_request_releases_its_connection(routes: HttpRoutes) -> None:
    async with raw_server(_hang) as server:
        for number in range(1, 7):
            task = asyncio.create_task(routes.probe_health(spec(server.url, timeout_sec=30)))
            await until(lambda number=number: server.connections == number)
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


STREAMED = Route("/load", timeout_sec=20, success="/status", success_equals="finished", error="/error/message")
PROGRESS = b'data: {"model_type": "model", "module": 1, "modules": 41, "status": "processing"}\r\n\r\n'
FINISHED = b'data: {"model_type": "model", "module": 41, "modules": 41, "status": "finished"}\r\n\r\n'
CUDA_ERROR = b'data: {"error": {"message": "CUDA out of memory", "trace": "Traceback"}}\r\n\r\n'


async def _load_streamed(
    routes: HttpRoutes, *parts: bytes, content_type: str = "text/event-stream", route: Route = STREAMED
) -> None:
    """Load a consumer whose load route answers with these parts of a stream."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": content_type})
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        return response

    async with web_server(handler) as url:
        await routes.load(ConsumerSpec("c", 1, url=url, load=route))


@pytest.mark.parametrize("content_type", ["text/event-stream; charset=utf-8", "text/plain", "application/json"])
async def test_last_event_of_a_stream_decides_whether_the_load_succeeded(routes: HttpRoutes, content_type: str) -> None:
    await _load_streamed(routes, PROGRESS, b": ping\r\n\r\n", FINISHED, content_type=content_type)
    with pytest.raises(RouteFailed, match="answered 200, but reports a failure: CUDA out of memory"):
        await _load_streamed(routes, PROGRESS * 3, CUDA_ERROR, content_type=content_type)


async def test_stream_that_ends_without_a_result_is_a_failed_load(routes: HttpRoutes) -> None:
    with pytest.raises(RouteFailed, match=r'reports a failure: .*"status": "processing"'):
        await _load_streamed(routes, PROGRESS)
    with pytest.raises(RouteFailed, match="no usable value at /status: it is empty"):
        await _load_streamed(routes)


async def test_json_lines_are_read_like_events(routes: HttpRoutes) -> None:
    route = Route("/load", success="/done", error="/error")
    lines = b'{"status": "pulling"}\n{"done": true}\n'
    await _load_streamed(routes, lines, content_type="application/x-ndjson", route=route)
    broken = lines + b'{"error": "model runner has unexpectedly stopped"}\n'
    with pytest.raises(RouteFailed, match="reports a failure: model runner has unexpectedly stopped"):
        await _load_streamed(routes, broken, content_type="application/x-ndjson", route=route)


@pytest.mark.parametrize("size", [BODY_BYTES - 50, BODY_BYTES, BODY_BYTES + 10, 3 * BODY_BYTES])
async def test_end_of_a_long_stream_decides(routes: HttpRoutes, size: int) -> None:
    progress = PROGRESS * (size // len(PROGRESS))
    await _load_streamed(routes, progress, FINISHED)
    with pytest.raises(RouteFailed, match="reports a failure: CUDA out of memory"):
        await _load_streamed(routes, progress, CUDA_ERROR)


async def test_answer_that_is_not_read_to_its_end_is_no_success(
    routes: HttpRoutes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _load_streamed(routes, FINISHED, b" " * BODY_BYTES, route=Route("/load"))  # the status is enough there
    monkeypatch.setattr("gpumand.consumers.http_exchange.STREAM_BYTES", 2 * BODY_BYTES)
    assert STREAM_BYTES > 2 * BODY_BYTES
    with pytest.raises(RouteFailed, match="too long to be read to its end"):
        await _load_streamed(routes, FINISHED, *[b": ping\n\n" + b" " * BODY_BYTES] * 3)


async def test_stream_that_breaks_off_or_does_not_end_is_reported_with_its_last_line(routes: HttpRoutes) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head + b"%x\r\n%s\r\n" % (len(PROGRESS), PROGRESS))
        await writer.drain()

    async def stay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await break_off(reader, writer)
        await reader.read()

    for session, message in ((break_off, "ended early"), (stay, "did not end within 1 s")):
        async with raw_server(session) as server:
            consumer = ConsumerSpec("c", 1, url=server.url, load=replace(STREAMED, timeout_sec=1.0))
            with pytest.raises(RouteFailed, match=f"{message}; its last line was data: .*processing"):
                await routes.load(consumer)


async def test_request_without_a_body_names_no_content_type(routes: HttpRoutes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.received.append(await reader.readuntil(b"\r\n\r\n"))
        if b"content-length: 2\r\n" in server.received[-1].lower():
            await reader.readexactly(2)
        writer.write(HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()

    async with raw_server(answer) as server:
        for method in ("POST", "DELETE", "PUT", "GET"):
            await routes.load(ConsumerSpec("c", 1, url=server.url, load=Route("/x", method)))
        await routes.load(ConsumerSpec("c", 1, url=server.url, load=Route("/x", json={})))
    without, (with_body,) = server.received[:4], server.received[4:]
    assert not [one for one in without if b"content-type" in one.lower() or b"transfer-encoding" in one.lower()]
    assert b"content-type: application/json" in with_body.lower()
    assert b"content-length: 2\r\n" in with_body.lower()


@pytest.mark.parametrize("status", [200, 401, 403, 404, 500, 503])
async def test_health_returns_the_status_of_every_answer(routes: HttpRoutes, status: int) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"loaded": True}, status=status)

    async with web_server(handler) as url:
        assert (await routes.probe_health(spec(url))).status == status
    assert (await routes.probe_health(spec(url))).status == 0


async def test_consumer_on_a_unix_socket(routes: HttpRoutes, tmp_path: Path) -> None:
    received: list[tuple[str, str]] = []

    async def handler(request: web.Request) -> web.Response:
        received.append((request.path, request.headers["Host"]))
        return web.json_response({"loaded": True})

    path = tmp_path / "x.sock"
    consumer = spec(f"http://unix:{path}:/base")
    assert await _failure(routes, consumer) == f"there is no socket {path}"
    assert (await routes.probe_health(consumer)).refused
    async with web_server(handler, path):
        await routes.load(consumer)
        await routes.unload(consumer)
        assert (await routes.probe_health(consumer)).loaded is True
    assert set(received) == {("/base/x", "localhost")}
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    assert "nothing listens on the socket" in await _failure(routes, consumer)
    assert (await routes.probe_health(consumer)).refused


async def test_compressed_answer_is_not_decompressed(routes: HttpRoutes) -> None:
    bomb = gzip.compress(b'{"loaded": true}' + b" " * (50 << 20))

    async def handler(request: web.Request) -> web.Response:
        assert request.headers["Accept-Encoding"] == "identity"
        return web.Response(body=bomb, headers={"Content-Encoding": "gzip"})

    async with web_server(handler) as url:
        assert await routes.probe_health(spec(url, timeout_sec=2)) == Health(reachable=True, status=200)


async def test_tls_with_an_unknown_certificate_is_refused(routes: HttpRoutes, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(  # noqa: ASYNC221  (a test may block)
        [*_SELF_SIGNED.split(), "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(_hang_up, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    message = await _failure(routes, spec(f"https://127.0.0.1:{port}", timeout_sec=5))
    assert message.startswith(f"TLS handshake with 127.0.0.1:{port} failed: ")
    assert "certificate" in message
    server.close()


async def test_tls_with_a_plain_http_server_is_reported(routes: HttpRoutes) -> None:
    async with web_server(_healthy) as url:
        message = await _failure(routes, spec(url.replace("http:", "https:"), timeout_sec=5))
    assert message.startswith("TLS handshake with 127.0.0.1:")


async def test_calls_after_close_fail_without_a_connection() -> None:
    routes = HttpRoutes(SystemClock())
    await routes.close()
    assert "gpumand is stopping" in await _failure(routes, spec("http://127.0.0.1:1"))
    await routes.close()


async def test_close_ends_requests_in_progress() -> None:
    routes = HttpRoutes(SystemClock())
    async with raw_server(_hang) as server:
        probe = asyncio.create_task(routes.probe_health(spec(server.url, timeout_sec=30)))
        await asyncio.wait({probe}, timeout=0.3)
        await routes.close()
        health = await asyncio.wait_for(probe, 5)
        assert not health.reachable


async def test_aiohttp_is_imported_on_first_use_only() -> None:
    code = "import sys, gpumand.consumers.routes; sys.exit('aiohttp' in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0


async def _healthy(_: web.Request) -> web.Response:
    return web.json_response({"loaded": True})


def test_health_route_default_has_a_limit() -> None:
    assert 0 < HealthRoute("/").timeout_sec <= 5
