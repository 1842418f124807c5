"""Warnings of the service about certificates that expire: its own, and those of a server with TLS in place of etcd."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gpumand.fleet.certificates import create_ca, create_host
from gpumand.fleet.expiry import expiry_warnings, watch_expiry
from gpumand.fleet.settings import EtcdConfig, FleetConfig, TlsFiles
from gpumand.fleet.tls import server_context
from tests.integration.fleet.fleet_hosts import until
from tests.integration.fleet.tls_etcd import written

CA = create_ca("lab")
Files = Callable[..., TlsFiles]
AGES = [(10, ""), (340, "expires in 2"), (400, "has expired")]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Returns a function that writes a certificate with an age."""

    def make(name: str, days_ago: int = 0) -> TlsFiles:
        created = datetime.now(UTC) - timedelta(days=days_ago)
        return written(tmp_path, name, create_host(CA, "lab", (name, "127.0.0.1"), created), CA.certificate)

    return make


async def serve(files: TlsFiles) -> tuple[asyncio.Server, str]:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=server_context(files))
    return server, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(("days_ago", "expected"), AGES)
async def test_member_of_etcd(files: Files, days_ago: int, expected: str) -> None:
    server, url = await serve(files("member", days_ago))
    config = FleetConfig(host="gpu1", url="https://gpu1:1", etcd=EtcdConfig((url, "https://127.0.0.1:1")))
    async with server:
        found = await expiry_warnings(config, files("gpu1"), time.time())

    assert len(found) == bool(expected)
    assert all(f"etcd at {url} {expected}" in one for one in found)


@pytest.mark.parametrize(("days_ago", "expected"), AGES)
async def test_host(files: Files, days_ago: int, expected: str) -> None:
    found = await expiry_warnings(FleetConfig(host="gpu1", url="https://gpu1:1"), files("gpu1", days_ago), time.time())

    assert len(found) == bool(expected)
    assert all(f"this host {expected}" in one for one in found)


async def test_warnings_are_in_the_log_and_files_that_are_gone_end_nothing(
    files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    soon = files("gpu1", 340)
    running = asyncio.ensure_future(watch_expiry(FleetConfig(host="gpu1", url="https://gpu1:1", tls=soon)))
    await until(lambda: [one for one in caplog.records if one.levelno == logging.WARNING], "it is logged")
    running.cancel()
    soon.certificate.unlink()
    assert await expiry_warnings(FleetConfig(host="gpu1", url="https://gpu1:1"), soon, time.time()) == []
