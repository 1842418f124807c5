"""The store is gone: running leases go on, new ones are placed by the last table and marked, and all comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from gpumand.fleet.calls import AcquireCall, DrainCall
from gpumand.fleet.errors import HostLost
from gpumand.fleet.service import FleetService
from gpumand.fleet.table import KnownRow
from gpumand.testing.daemon import PrivateGpumand
from tests.integration.fleet.fleet_hosts import FleetHosts, LocalClient, fleet_hosts, running_daemons, until
from tests.integration.fleet.plain_etcd import PlainEtcd


@pytest.fixture(scope="module")
def pair() -> Iterator[list[PrivateGpumand]]:
    with running_daemons(2) as started:
        yield started


@pytest.fixture
async def own_hosts(own_etcd: PlainEtcd, pair: list[PrivateGpumand]) -> AsyncIterator[FleetHosts]:
    async with fleet_hosts(pair, own_etcd.url) as started:
        yield started


async def test_leases_survive_the_loss_of_etcd_and_new_ones_are_marked(
    own_hosts: FleetHosts, own_etcd: PlainEtcd
) -> None:
    first, second = await own_hosts.services(2)
    lease = await first.router.acquire(AcquireCall("chat", 30.0, on="gpu2"))

    own_etcd.kill()
    await until(lambda: first.table.interruption and second.table.interruption, "the routers notice it")

    new = await first.router.acquire(AcquireCall("image", 60.0))
    assert new.grant["degraded"]
    assert await own_hosts.leases(2) >= 1, "the lease from before goes on"
    await new.release()

    assert own_etcd.start()
    await until(lambda: not first.table.interruption and not second.table.interruption, "etcd is back")
    await until(lambda: len(first.table.rows) == len(second.table.rows) == 2, "both hosts are in the table")
    assert await own_hosts.leases(2) >= 1
    again = await second.router.acquire(AcquireCall("image", 60.0))
    assert "degraded" not in again.grant
    await again.release()
    await lease.release()
    assert await own_hosts.leases(2) == 0


async def test_agent_starts_without_etcd_and_serves_its_own_host(own_hosts: FleetHosts, own_etcd: PlainEtcd) -> None:
    own_etcd.kill()
    service = await own_hosts.service(1)
    async with LocalClient(own_hosts.config(1).socket) as client:
        shown = await client.get("/v1/hosts")
        assert shown["degraded"]
        stream = await client.acquire("chat", wait_sec=60)
        assert stream.grant["host"] == "gpu1"
        assert stream.grant["degraded"]
        stream.close()
    assert own_etcd.start()
    await until(lambda: service.table.find("gpu1") is not None, "the host joins")


async def test_drain_survives_a_restart_of_the_agent(own_hosts: FleetHosts) -> None:
    process = await own_hosts.process(2)
    router = await own_hosts.service(1)
    await until(lambda: router.table.find("gpu2") is not None, "the router knows the host")
    assert await router.router.drain(DrainCall(True, "gpu2")) == {"host": "gpu2", "drain": True}
    await until(lambda: router.table.drained, "the drain is known")
    process.close()
    await own_hosts.process(2)
    await until(lambda: _is_draining(router.table.find("gpu2")), "the new agent goes on with the drain")
    lease = await router.router.acquire(AcquireCall("chat", 30.0))
    assert lease.grant["host"] == "gpu1"
    await lease.release()
    await router.router.drain(DrainCall(False, "gpu2"))
    await until(lambda: not router.table.drained, "the drain has ended")


def _is_resident(service: FleetService, host: str, consumer: str) -> bool:
    known = service.table.find(host)
    return known is not None and known.row.consumers[consumer].residency == "resident"


def _is_draining(known: KnownRow | None) -> bool:
    return known is not None and known.row.draining


async def test_two_hosts_without_etcd_ask_each_other(pair: list[PrivateGpumand]) -> None:
    async with fleet_hosts(pair, "") as hosts:
        first = await hosts.service(1, etcd=None)
        second = await hosts.service(2, etcd=None, peers={"gpu1": first.facts.url})
        await until(lambda: len(second.table.rows) == 2, "the second host knows the first")
        first_lease = await second.router.acquire(AcquireCall("chat", 60.0, on="gpu1"))
        await until(lambda: _is_resident(second, "gpu1", "chat"), "the second host knows what the first has loaded")
        again = await second.router.acquire(AcquireCall("chat", 60.0))
        assert again.grant["host"] == first_lease.grant["host"] == "gpu1"
        assert "degraded" not in again.grant
        await again.release()
        await first_lease.release()


async def test_agent_that_is_away_is_reported_with_its_address(own_hosts: FleetHosts) -> None:
    first = await own_hosts.service(1)
    second = await own_hosts.process(2)
    await until(lambda: first.table.find("gpu2") is not None, "the router knows the host")
    known = first.table.find("gpu2")
    assert known is not None
    second.kill()
    await asyncio.to_thread(second.wait)
    with pytest.raises(HostLost, match=f"gpu2 cannot be reached at {known.row.url}"):
        await first.router.acquire(AcquireCall("chat", 5.0, on="gpu2"))
    states = {one["row"]["name"]: one["state"] for one in first.api.hosts()["hosts"]}
    assert states == {"gpu1": "up", "gpu2": "lost"}
