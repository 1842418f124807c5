"""Agents with certificates: the caller is the host of its certificate, and others are refused with words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gpumand.client.client import Client
from gpumand.domain.errors import AccessDenied
from gpumand.fleet.calls import AcquireCall, PlanCall
from gpumand.fleet.certificates import KeyPair, create_ca, create_host
from gpumand.fleet.errors import HostLost
from gpumand.fleet.remote_host import AgentClient
from gpumand.fleet.settings import TlsFiles
from gpumand.fleet.tls import client_context
from tests.integration.fleet.fleet_hosts import FleetHosts, until
from tests.integration.fleet.tls_etcd import written

CA, OTHER_CA = create_ca("lab"), create_ca("other")
ADDRESSES = ("localhost", "127.0.0.1")


def files_of(folder: Path, name: str, ca: KeyPair = CA, days_ago: int = 0) -> TlsFiles:
    made = create_host(ca, "lab", (name, *ADDRESSES), datetime.now(UTC) - timedelta(days=days_ago))
    return written(folder, name, made, CA.certificate)


async def agent_of(hosts: FleetHosts, folder: Path, **allow: frozenset[str]) -> str:
    """Start the agent of gpu2 with a certificate, and return its URL."""
    service = await hosts.service(2, tls=files_of(folder, "gpu2"), url="https://127.0.0.1:0", allow=allow)
    return service.facts.url


async def test_caller_has_the_rights_and_the_name_of_its_certificate(hosts: FleetHosts, tmp_path: Path) -> None:
    tls = {"allow": {"gpu1": frozenset({"acquire", "plan"})}}
    await hosts.service(2, tls=files_of(tmp_path, "gpu2"), url="https://127.0.0.1:0", **tls)
    first = await hosts.service(1, tls=files_of(tmp_path, "gpu1"), url="https://127.0.0.1:0", **tls)
    await until(lambda: first.table.find("gpu2") is not None, "the router knows the host")

    lease = await first.router.acquire(AcquireCall("chat", 30.0, on="gpu2", user="alice"))

    assert lease.grant["host"] == "gpu2"
    async with Client(hosts.daemons[1].address) as client:
        assert [one.reason for one in (await client.status()).leases] == ["for alice@gpu1"]
    await lease.release()


async def test_host_without_the_right_is_refused_with_the_line_that_allows_it(
    hosts: FleetHosts, tmp_path: Path
) -> None:
    url = await agent_of(hosts, tmp_path, gpu1=frozenset({"plan"}))
    files = files_of(tmp_path, "gpu1")
    client = AgentClient(client_context(files), files)
    try:
        assert (await client.host("gpu2", url).plan(PlanCall("chat")))["verdict"] == "grant"
        with pytest.raises(AccessDenied, match=r'gpu1 may not acquire on gpu2.*gpu1 = \["acquire"\]'):
            await client.host("gpu2", url).acquire(AcquireCall("chat", 5.0))
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("ca", "days_ago", "words"),
    [
        (OTHER_CA, 0, "certificate of this host is from another authority"),
        (CA, 400, "certificate of this host has expired"),
    ],
)
async def test_foreign_and_expired_certificates_are_refused_with_words(
    hosts: FleetHosts, tmp_path: Path, ca: KeyPair, days_ago: int, words: str
) -> None:
    url = await agent_of(hosts, tmp_path, gpu1=frozenset({"acquire", "plan"}))
    files = files_of(tmp_path, "gpu1", ca, days_ago)
    client = AgentClient(client_context(files), files)
    try:
        with pytest.raises(HostLost, match=words):
            await client.host("gpu2", url).acquire(AcquireCall("chat", 5.0))
        with pytest.raises(HostLost, match=words):
            await client.host("gpu2", url).plan(PlanCall("chat"))
    finally:
        await client.close()


async def test_caller_without_a_certificate_is_refused(hosts: FleetHosts, tmp_path: Path) -> None:
    url = await agent_of(hosts, tmp_path, **{"*": frozenset({"acquire", "plan"})})
    client = AgentClient()
    try:
        with pytest.raises(HostLost):
            await client.host("gpu2", url.replace("https", "http")).plan(PlanCall("chat"))
    finally:
        await client.close()
