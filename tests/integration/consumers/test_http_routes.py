"""HttpRoutes over real sockets: what is sent, and how errors are reported."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web

from gpumand.consumers.routes import HttpRoutes
from gpumand.domain.consumer import ConsumerSpec, Health, HealthRoute, Route
from gpumand.host.clock import SystemClock
from gpumand.ports import RouteFailed
from gpumand.testing.ports import free_port

from .servers import answer_healthy, failure_of, hang, hang_up, raw_server, spec, web_server

_SELF_SIGNED = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=127.0.0.1 -days 2"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


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
    message = await failure_of(routes, spec(f"http://127.0.0.1:{port}"))
    assert message == f"nothing listens on 127.0.0.1:{port} (connection refused)"
    assert (await routes.probe_health(spec(f"http://127.0.0.1:{port}"))).refused


async def test_closed_port_of_a_host_name_is_reported_as_refused(routes: HttpRoutes) -> None:
    health = await routes.probe_health(spec(f"http://localhost:{free_port()}"))
    assert (health.reachable, health.refused) == (False, True)


async def test_unknown_host_is_not_reported_as_refused(routes: HttpRoutes) -> None:
    message = await failure_of(routes, spec("http://no-such-host.invalid:80", timeout_sec=20))
    assert message.startswith("host name 'no-such-host.invalid' cannot be resolved")
    assert not (await routes.probe_health(spec("http://no-such-host.invalid:80", timeout_sec=20))).refused


@pytest.mark.parametrize("url", ["", "ftp://127.0.0.1/", "http://[", "http://\x00/"])
async def test_unusable_url_is_reported(routes: HttpRoutes, url: str) -> None:
    assert "URL" in await failure_of(routes, spec(url)) or url == "http://\x00/"


async def test_header_with_a_line_break_fails_the_request(routes: HttpRoutes) -> None:
    async with web_server(answer_healthy) as url:
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
        message = await failure_of(routes, spec(url))
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
            message = await failure_of(routes, spec(url))
        assert (
            message == f"answered 307 Temporary Redirect, a redirect to {other_url}/stolen; redirects are not followed"
        )
    assert received == []


async def test_proxies_of_the_environment_are_not_used(routes: HttpRoutes, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    async with web_server(answer_healthy) as url:
        assert (await routes.probe_health(spec(url))).loaded is True


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


async def test_route_that_wants_a_key_names_the_key_to_set(routes: HttpRoutes) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"detail": "no key"}, status=401)

    async with web_server(handler) as url:
        with pytest.raises(
            RouteFailed, match=r'401 Unauthorized: .*"no key"}\. Set or check key_file in consumers\.c$'
        ):
            await routes.load(spec(url))


async def test_consumer_on_a_unix_socket(routes: HttpRoutes, tmp_path: Path) -> None:
    received: list[tuple[str, str]] = []

    async def handler(request: web.Request) -> web.Response:
        received.append((request.path, request.headers["Host"]))
        return web.json_response({"loaded": True})

    path = tmp_path / "x.sock"
    consumer = spec(f"http://unix:{path}:/base")
    assert await failure_of(routes, consumer) == f"there is no socket {path}"
    assert (await routes.probe_health(consumer)).refused
    async with web_server(handler, path):
        await routes.load(consumer)
        await routes.unload(consumer)
        assert (await routes.probe_health(consumer)).loaded is True
    assert set(received) == {("/base/x", "localhost")}
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    assert "nothing listens on the socket" in await failure_of(routes, consumer)
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
    server = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    message = await failure_of(routes, spec(f"https://127.0.0.1:{port}", timeout_sec=5))
    assert message.startswith(f"TLS handshake with 127.0.0.1:{port} failed: ")
    assert "certificate" in message
    server.close()


async def test_tls_with_a_plain_http_server_is_reported(routes: HttpRoutes) -> None:
    async with web_server(answer_healthy) as url:
        message = await failure_of(routes, spec(url.replace("http:", "https:"), timeout_sec=5))
    assert message.startswith("TLS handshake with 127.0.0.1:")


async def test_calls_after_close_fail_without_a_connection() -> None:
    routes = HttpRoutes(SystemClock())
    await routes.close()
    assert "gpumand is stopping" in await failure_of(routes, spec("http://127.0.0.1:1"))
    await routes.close()


async def test_close_ends_requests_in_progress() -> None:
    routes = HttpRoutes(SystemClock())
    async with raw_server(hang) as server:
        probe = asyncio.create_task(routes.probe_health(spec(server.url, timeout_sec=30)))
        await asyncio.wait({probe}, timeout=0.3)
        await routes.close()
        health = await asyncio.wait_for(probe, 20)
        assert not health.reachable


@pytest.mark.parametrize(
    ("imported", "avoided"),
    [("routes", "('h11', 'gpumand.consumers.http_exchange')"), ("http_exchange", "('aiohttp', 'yarl')")],
)
async def test_http_client_is_imported_on_first_use_and_without_aiohttp(imported: str, avoided: str) -> None:
    code = f"import sys, gpumand.consumers.{imported}; sys.exit(any(one in sys.modules for one in {avoided}))"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0


def test_health_route_default_has_a_limit() -> None:
    assert 0 < HealthRoute("/").timeout_sec <= 5
