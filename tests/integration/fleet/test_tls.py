"""TLS between hosts, with real connections: the server knows the caller by its certificate, and refuses others."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from gpumand.fleet.certificates import KeyPair, create_ca, create_host
from gpumand.fleet.settings import TlsFiles
from gpumand.fleet.tls import caller_name, client_context, explained, server_context, why_disconnected
from tests.integration.fleet.tls_etcd import written

CA, OTHER_CA = create_ca("lab"), create_ca("lab")
ADDRESSES = ("localhost", "127.0.0.1")
Serve = Callable[[KeyPair], Awaitable[str]]


def host(*names: str, ca: KeyPair = CA, days_ago: int = 0) -> KeyPair:
    return create_host(ca, "lab", names, datetime.now(UTC) - timedelta(days=days_ago))


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Returns a function that starts a server, which answers with the name of its caller."""
    runners: list[web.ServerRunner] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        assert request.transport is not None
        return web.Response(text=caller_name(request.transport.get_extra_info("peercert")))

    async def start(pair: KeyPair) -> str:
        runner = web.ServerRunner(web.Server(answer))
        await runner.setup()
        runners.append(runner)
        context = server_context(written(tmp_path, "server", pair, CA.certificate))
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        assert site._server is not None
        return f"https://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]

    yield start
    for one in runners:
        await one.cleanup()


async def ask(url: str, files: TlsFiles) -> str:
    connector = aiohttp.TCPConnector(ssl=client_context(files))
    async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as answer:
        return await answer.text()


async def failure(url: str, files: TlsFiles) -> str:
    with pytest.raises(aiohttp.ClientError) as caught:
        await ask(url, files)
    return explained(caught.value) or await why_disconnected(url, files)


async def test_the_caller_is_the_first_dns_name_of_its_certificate(serve: Serve, tmp_path: Path) -> None:
    url = await serve(host("gpu1", *ADDRESSES))

    assert await ask(url, written(tmp_path, "a", host("gpu2", "10.0.0.2"), CA.certificate)) == "gpu2"


async def test_an_expired_certificate_of_the_caller_is_refused_with_words(serve: Serve, tmp_path: Path) -> None:
    url = await serve(host("gpu1", *ADDRESSES))
    files = written(tmp_path, "a", host("gpu2", days_ago=400), CA.certificate)

    assert (await failure(url, files)).startswith("the certificate of this host has expired. Renew it")


async def test_a_foreign_certificate_of_the_caller_is_refused_with_words(serve: Serve, tmp_path: Path) -> None:
    url = await serve(host("gpu1", *ADDRESSES))
    files = written(tmp_path, "a", host("gpu2", ca=OTHER_CA), CA.certificate)

    assert "of this host is from another authority" in await failure(url, files)


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        (host("gpu1", *ADDRESSES, days_ago=400), "has expired. Renew it"),
        (host("gpu1", *ADDRESSES, days_ago=-2), "not valid yet. Set the clocks"),
        (host("gpu1", "10.0.0.1"), "is for another address"),
        (host("gpu1", *ADDRESSES, ca=OTHER_CA), "it is in another fleet"),
    ],
)
async def test_an_unusable_certificate_of_the_other_host_is_refused_with_words(
    serve: Serve, tmp_path: Path, server: KeyPair, expected: str
) -> None:
    url = await serve(server)

    assert expected in await failure(url, written(tmp_path, "a", host("gpu2"), CA.certificate))


async def test_a_caller_without_a_certificate_gets_no_answer(serve: Serve) -> None:
    url = await serve(host("gpu1", *ADDRESSES))
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=CA.certificate.decode("ascii")))

    async with aiohttp.ClientSession(connector=connector) as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(url)


async def test_a_server_that_is_content_or_absent_gives_no_reason(serve: Serve, tmp_path: Path) -> None:
    url = await serve(host("gpu1", *ADDRESSES))
    files = written(tmp_path, "a", host("gpu2"), CA.certificate)

    assert await why_disconnected(url, files) == ""
    assert await why_disconnected("https://127.0.0.1:1", files) == ""


def test_a_certificate_with_a_common_name_names_no_caller() -> None:
    subject = ((("organizationName", "x"),), (("commonName", "gpu1"),))
    names = (("DNS", "gpu1"),)

    assert caller_name({"subject": subject, "subjectAltName": names}) == ""
    assert caller_name({"subject": subject[:1], "subjectAltName": names}) == "gpu1"
    assert caller_name({"subject": subject[:1], "subjectAltName": (("IP Address", "1.2.3.4"),)}) == ""
    assert caller_name({"subject": subject[:1], "subjectAltName": (("DNS", "etcd-member.lab"), *names)}) == ""
    assert caller_name(None) == ""
