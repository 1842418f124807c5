"""https servers: the certificates of the system decide, and are read only when an https server is asked."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from gpumand.consumers.certificates import Certificates
from gpumand.consumers.routes import HttpRoutes
from gpumand.gateway.refusals import Refused
from gpumand.gateway.upstream import Endpoint, Upstreams
from gpumand.host.clock import SystemClock
from gpumand.ports import RouteFailed

from .servers import answer_healthy, spec

ISSUE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /O=gpumand -days 2"
    " -addext subjectAltName=IP:127.0.0.1"
)
IN_A_NEW_PROCESS = """
import ssl, sys
before = ssl.create_default_context
read = ssl.SSLContext.set_default_verify_paths
from gpumand.http.aiohttp_import import import_aiohttp
import_aiohttp()
from aiohttp import connector
assert ssl.create_default_context is before
assert ssl.SSLContext.set_default_verify_paths is read
assert connector._SSL_CONTEXT_VERIFIED.verify_mode is ssl.CERT_REQUIRED
assert connector._SSL_CONTEXT_VERIFIED.get_ca_certs() == []
assert connector._SSL_CONTEXT_UNVERIFIED.get_ca_certs() == []
import_aiohttp()
"""


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [*ISSUE.split(), "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True, timeout=30
    )
    return certificate


@pytest.fixture
async def server(certificate: Path) -> AsyncIterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer_healthy)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def trust(monkeypatch: pytest.MonkeyPatch, certificate: Path) -> None:
    """Make a certificate one of the system's."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))


def test_aiohttp_is_imported_without_the_certificates_and_then_trusts_none() -> None:
    subprocess.run([sys.executable, "-c", IN_A_NEW_PROCESS], check=True, timeout=60)


async def test_certificates_are_not_read_for_plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ssl, "create_default_context")
    assert await Certificates().context_for("http://127.0.0.1:1") is True


async def test_certificates_are_read_once() -> None:
    certificates = Certificates()
    first = await certificates.context_for("https://127.0.0.1")
    assert first is await certificates.context_for("https://127.0.0.1/other")


async def test_probe_of_a_trusted_https_server_is_answered(
    monkeypatch: pytest.MonkeyPatch, certificate: Path, server: str
) -> None:
    trust(monkeypatch, certificate)
    routes = HttpRoutes(SystemClock())
    assert (await routes.probe_health(spec(server, timeout_sec=20))).loaded is True
    await routes.close()


async def test_probe_of_an_untrusted_https_server_fails(server: str) -> None:
    routes = HttpRoutes(SystemClock())
    with pytest.raises(RouteFailed, match="TLS handshake"):
        await routes.load(spec(server, timeout_sec=20))
    await routes.close()


async def test_gateway_passes_requests_to_a_trusted_https_server(
    monkeypatch: pytest.MonkeyPatch, certificate: Path, server: str
) -> None:
    trust(monkeypatch, certificate)
    upstreams = Upstreams()
    answer = await upstreams.request(Endpoint(server, server), "GET", "/x", {}, None)
    assert answer.status == 200
    answer.close()
    await upstreams.close()


async def test_gateway_refuses_an_untrusted_https_server(server: str) -> None:
    upstreams = Upstreams()
    with pytest.raises(Refused, match="does not trust the certificate"):
        await upstreams.request(Endpoint(server, server), "GET", "/x", {}, None)
    await upstreams.close()
