"""etcd has raised its alarm NOSPACE: it renews leases and answers reads, and refuses every write."""

from __future__ import annotations

import asyncio
import json
import shutil
import urllib.request
from collections.abc import AsyncIterator, Iterator

import pytest

from gpumand.client.client import Client
from gpumand.domain.residency_states import Residency
from gpumand.fleet.calls import AcquireCall
from gpumand.fleet.service import FleetService
from gpumand.testing.daemon import PrivateGpumand
from tests.integration.fleet.fleet_hosts import (
    FleetHosts,
    LocalClient,
    fleet_hosts,
    running_daemons,
    until,
    until_async,
)
from tests.integration.fleet.plain_etcd import PlainEtcd, running_etcd


@pytest.fixture(scope="module")
def pair() -> Iterator[list[PrivateGpumand]]:
    with running_daemons(2) as started:
        yield started


@pytest.fixture
def own_etcd() -> Iterator[PlainEtcd]:
    if shutil.which("etcd") is None:
        pytest.skip("etcd is not installed (Debian: etcd-server)")
    with running_etcd() as running:
        yield running


@pytest.fixture
async def hosts(pair: list[PrivateGpumand], own_etcd: PlainEtcd) -> AsyncIterator[FleetHosts]:
    async with fleet_hosts(pair, own_etcd.url) as started:
        yield started


def set_alarm(etcd: PlainEtcd, action: str) -> None:
    """Raise the alarm that etcd raises at the quota of its database, or end it as ``etcdctl alarm disarm`` does."""
    body = json.dumps({"action": action, "memberID": "0", "alarm": "NOSPACE"}).encode()
    with urllib.request.urlopen(f"{etcd.url}/v3/maintenance/alarm", body, timeout=10) as answer:
        assert answer.status == 200


def residency(service: FleetService, host: str, consumer: str) -> Residency:
    known = service.table.find(host)
    assert known is not None
    return known.row.consumers[consumer].residency


async def test_requests_are_served_although_the_rows_in_the_store_are_old(
    hosts: FleetHosts, own_etcd: PlainEtcd
) -> None:
    first, second = await hosts.services(2)
    await (await first.router.acquire(AcquireCall("chat", 60.0, on="gpu2"))).release()
    await until(lambda: residency(first, "gpu2", "chat") is Residency.RESIDENT, "the row shows the load")
    await asyncio.to_thread(set_alarm, own_etcd, "ACTIVATE")
    async with Client(hosts.daemons[1].address) as client:
        await client.evict("chat", force=True)
    await until(lambda: own_residency(second, "chat") is not Residency.RESIDENT, "its own host knows")
    assert residency(first, "gpu2", "chat") is Residency.RESIDENT, "the row in the store is old"
    for consumer in ("chat", "image"):
        async with asyncio.timeout(90):
            lease = await first.router.acquire(AcquireCall(consumer, 60.0))
        assert "alarm NOSPACE" in lease.grant["degraded"]
        await lease.release()

    async with LocalClient(hosts.config(1).socket) as client:
        await until_async(lambda: said(client, "alarm NOSPACE"), "the status has the reason")
        await asyncio.to_thread(set_alarm, own_etcd, "DEACTIVATE")
        await until_async(lambda: said(client, ""), "the rows in the store are current again")


def own_residency(service: FleetService, consumer: str) -> Residency:
    return service._own_row().consumers[consumer].residency


async def said(client: LocalClient, words: str) -> bool:
    """Whether the status of the store has these words, or is empty where there are none."""
    why = (await client.get("/v1/hosts"))["why"]
    return words in why if words else not why
