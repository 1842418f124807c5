"""gpumand or the agent of the only host of a consumer restarts, as at an upgrade: requests of other hosts wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import pytest

from gpumand.domain.errors import GpumandError, NoSuchConsumer
from gpumand.fleet.calls import AcquireCall
from gpumand.fleet.errors import NoHost
from gpumand.fleet.service import FleetService
from gpumand.testing.daemon import PrivateGpumand
from tests.integration.fleet.fleet_hosts import FleetHosts, LocalClient, fleet_hosts, until
from tests.integration.fleet.plain_etcd import PlainEtcd

UNIQUE = 'fleet = "unique"'


@pytest.fixture(scope="module")
def pair() -> Iterator[list[PrivateGpumand]]:
    """gpu1 has only a consumer of its own, gpu2 has chat and the unique consumer licensed."""
    with ExitStack() as stack:
        first = stack.enter_context(PrivateGpumand({"small": 1000}))
        second = stack.enter_context(PrivateGpumand({"chat": 9000, "licensed": 4000}, config=UNIQUE))
        yield [first, second]


@pytest.fixture
async def hosts(shared_etcd: PlainEtcd, pair: list[PrivateGpumand]) -> AsyncIterator[FleetHosts]:
    async with fleet_hosts(pair, shared_etcd.url) as started:
        yield started


def is_away(service: FleetService, host: str) -> bool:
    known = service.table.find(host)
    return known is not None and known.row.is_away


async def test_requests_wait_while_gpumand_of_the_only_host_restarts(hosts: FleetHosts) -> None:
    first, _ = await hosts.services(2)
    await asyncio.to_thread(hosts.daemons[1].stop_daemon)
    try:
        # Before the row shows it:
        early = asyncio.ensure_future(first.router.acquire(AcquireCall("chat", 120.0)))
        soon = asyncio.ensure_future(first.router.acquire(AcquireCall("chat", 120.0, on="gpu2")))
        await until(lambda: is_away(first, "gpu2"), "the other host knows that gpumand gives no answer")
        late = asyncio.ensure_future(first.router.acquire(AcquireCall("chat", 120.0)))
        chosen = asyncio.ensure_future(first.router.acquire(AcquireCall("chat", 120.0, on="gpu2")))
        words = r"the host that has chat is not reachable at the moment: gpu2 \(its gpumand has given no answer for"
        with pytest.raises(NoHost, match=words):
            await first.router.acquire(AcquireCall("chat", 0.2))
        with pytest.raises(NoSuchConsumer):
            await first.router.acquire(AcquireCall("cha", 120.0))
        async with LocalClient(hosts.config(1).socket) as client:
            shown = {one["row"]["name"]: one for one in (await client.get("/v1/hosts"))["hosts"]}
            assert shown["gpu2"]["why"] == "its gpumand gives no answer, so that it serves no requests"
            assert not shown["gpu1"]["why"]
        assert not any(one.done() for one in (early, soon, late, chosen))
    finally:
        await asyncio.to_thread(hosts.daemons[1].start_daemon)
    async with asyncio.timeout(90):
        leases = [await early, await soon, await late, await chosen]
    assert {one.grant["host"] for one in leases} == {"gpu2"}
    for one in leases:
        await one.release()


async def test_requests_wait_while_the_agent_of_the_only_host_restarts(hosts: FleetHosts) -> None:
    first = await hosts.service(1)
    agent = await hosts.process(2)
    await until(lambda: first.table.find("gpu2") is not None, "the router knows the host")
    agent.kill(15)
    await asyncio.to_thread(agent.wait)
    await until(lambda: first.table.find("gpu2") is None, "the agent has left the fleet")
    waiting = asyncio.ensure_future(first.router.acquire(AcquireCall("chat", 120.0)))
    with pytest.raises(NoHost, match=r"gpu2 \(it has not been in the fleet for"):
        await first.router.acquire(AcquireCall("chat", 0.2))
    assert not waiting.done()
    await hosts.process(2)
    async with asyncio.timeout(90):
        lease = await waiting
    assert lease.grant["host"] == "gpu2"
    await lease.release()


async def test_unique_consumer_keeps_its_claim_and_its_rules_while_gpumand_restarts(
    hosts: FleetHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gpumand.fleet.local_host.CLAIM_WAIT_SEC", 0.5)
    first, second = await hosts.services(2, ttl_sec=60.0)
    lease = await first.router.acquire(AcquireCall("licensed", 60.0))
    await lease.release()
    await asyncio.to_thread(hosts.daemons[1].stop_daemon)
    try:
        await until(lambda: second._own_row().is_away, "the agent knows that gpumand gives no answer")
        assert second._unique.is_unique("licensed")
        assert second._unique.held == ["licensed"]
        with pytest.raises(GpumandError, match="gpumand of gpu2 gives no answer at the moment"):
            await second._host.claim("licensed")
        await second.close()  # gpumand cannot unload it now, so the claim must stand
        assert await hosts_of(first, "licensed") == ["gpu2's"]
    finally:
        await asyncio.to_thread(hosts.daemons[1].start_daemon)
    assert await hosts.residency(2, "licensed") == "resident"


async def hosts_of(service: FleetService, consumer: str) -> list[str]:
    """The hosts whose claims of a unique consumer are in the store."""
    found = await service.store.list(service._keys.unique(consumer))
    return ["gpu2's" if f"{2:032x}" in one.value else one.value for one in found.entries]
