"""A consumer that only one host of the fleet may have loaded, with real daemons and etcd."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from gpumand.client.client import Client
from gpumand.client.sync import SyncClient
from gpumand.domain.errors import Busy, NotNowError
from gpumand.fleet.calls import AcquireCall
from gpumand.fleet.service import FleetService
from gpumand.fleet.unique_rules import FENCED
from gpumand.testing.daemon import PrivateGpumand
from tests.integration.fleet.fleet_hosts import FleetHosts, fleet_hosts, running_daemons, until, until_async
from tests.integration.fleet.plain_etcd import PlainEtcd


@pytest.fixture(scope="module")
def pair() -> Iterator[list[PrivateGpumand]]:
    """Two hosts whose consumer chat is unique."""
    with running_daemons(2, {"chat": 14000, "image": 13000}) as started:
        for one in started:
            file = one.folder / "gpumand.toml"
            table = '[consumers."chat"]\n'
            file.write_text(file.read_text().replace(table, f'{table}fleet = "unique"\n'))
            with SyncClient(one.address) as client:
                client.reload()
        yield started


@pytest.fixture
async def hosts(pair: list[PrivateGpumand], own_etcd: PlainEtcd) -> AsyncIterator[FleetHosts]:
    async with fleet_hosts(pair, own_etcd.url) as started:
        yield started


def is_unique(service: FleetService) -> bool:
    return all(one.row.consumers["chat"].unique for one in service.table.rows.values())


async def test_unique_consumer_is_refused_on_the_second_host_until_it_is_unloaded_on_the_first(
    hosts: FleetHosts,
) -> None:
    first, second = await hosts.services(2)
    assert is_unique(first)
    lease = await first.router.acquire(AcquireCall("chat", 30.0, on="gpu1"))

    with pytest.raises(Busy, match="gpu1 has it"):
        await second.router.acquire(AcquireCall("chat", 5.0, on="gpu2"))
    assert (await second.router.acquire(AcquireCall("chat", 5.0))).grant["host"] == "gpu1"

    await lease.release()
    async with Client(hosts.daemons[0].address) as client:
        await client.evict("chat", force=True)
    await until(lambda: not first._claims.holds("chat"), "the first host gives it up")
    moved = await second.router.acquire(AcquireCall("chat", 30.0, on="gpu2"))
    assert moved.grant["host"] == "gpu2"
    await moved.release()


async def test_lease_on_a_unique_consumer_ends_before_the_others_may_load_it(
    hosts: FleetHosts, own_etcd: PlainEtcd
) -> None:
    first, second = await hosts.services(2, ttl_sec=6.0)
    unique = await second.router.acquire(AcquireCall("chat", 30.0, on="gpu1"))
    other = await second.router.acquire(AcquireCall("image", 30.0, on="gpu2"))

    own_etcd.kill()

    assert await unique.wait_ended() == FENCED
    assert await hosts.residency(1, "chat") == "resident", "its client may still finish"
    await unique.release()
    await until_residency(hosts, "unloaded")
    assert await hosts.leases(2) == 1, "leases on other consumers go on"
    with pytest.raises(NotNowError, match="one host only"):
        await first.router.acquire(AcquireCall("chat", 5.0, on="gpu1"))
    await other.release()


async def test_fenced_consumer_that_a_local_client_uses_is_unloaded_when_the_client_has_finished(
    hosts: FleetHosts, own_etcd: PlainEtcd
) -> None:
    first, _ = await hosts.services(2, ttl_sec=6.0)
    async with Client(hosts.daemons[0].address) as client:
        grant = await client.acquire("chat", lifetime="ttl", timeout_sec=30)
        await until(lambda: first._claims.holds("chat"), "the host claims what was loaded without the fleet")

        own_etcd.kill()

        await until(lambda: not first._claims.holds("chat"), "the fence falls")
        await until(lambda: "chat" in first._unique._overdue, "the unload was tried")
        assert await hosts.residency(1, "chat") == "resident", "nothing is unloaded under a lease"
        await client.release(grant.id)
    await until_residency(hosts, "unloaded")


async def until_residency(hosts: FleetHosts, wanted: str) -> None:
    """Wait until gpumand of gpu1 reports where the unique consumer is."""

    async def is_there() -> bool:
        return await hosts.residency(1, "chat") == wanted

    await until_async(is_there, f"chat is {wanted} on gpu1")


async def test_agent_that_is_stopped_unloads_what_it_no_longer_guards(hosts: FleetHosts) -> None:
    first, second = await hosts.services(2)
    lease = await first.router.acquire(AcquireCall("chat", 30.0, on="gpu1"))
    await lease.release()

    await first.stop(1.0)

    async with Client(hosts.daemons[0].address) as client:
        assert (await client.status()).consumer("chat").residency == "unloaded"  # type: ignore[union-attr]
    moved = await second.router.acquire(AcquireCall("chat", 30.0, on="gpu2"))
    assert moved.grant["host"] == "gpu2"
    await moved.release()


async def test_agent_that_is_restarted_leaves_the_consumer_loaded_for_its_next_process(hosts: FleetHosts) -> None:
    first, second = await hosts.services(2, ttl_sec=60.0)
    lease = await first.router.acquire(AcquireCall("chat", 30.0, on="gpu1"))
    await lease.release()
    await hosts.begin_count()
    first.comes_back = _always

    await first.stop(1.0)

    assert await hosts.residency(1, "chat") == "resident"
    with pytest.raises(Busy, match="one host only"):
        await second.router.acquire(AcquireCall("chat", 5.0, on="gpu2"))
    third = await hosts.service(1, ttl_sec=60.0)
    await until(lambda: third._claims.holds("chat"), "the next process takes the claim over")
    again = await third.router.acquire(AcquireCall("chat", 5.0, on="gpu1"))
    await again.release()
    assert (await hosts.loads(), await hosts.evictions()) == (0, 0)


async def _always() -> bool:
    return True


async def test_agent_that_is_stopped_keeps_its_claim_while_a_client_of_gpumand_uses_the_consumer(
    hosts: FleetHosts,
) -> None:
    first, second = await hosts.services(2, ttl_sec=60.0)
    async with Client(hosts.daemons[0].address) as client:
        grant = await client.acquire("chat", lifetime="ttl", timeout_sec=30)
        await until(lambda: first._claims.holds("chat"), "the host claims what was loaded without the fleet")

        await first.stop(1.0)

        with pytest.raises(Busy, match="one host only"):
            await second.router.acquire(AcquireCall("chat", 5.0, on="gpu2"))
        await client.release(grant.id)
