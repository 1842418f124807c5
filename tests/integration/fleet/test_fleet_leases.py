"""Remote leases live by the connection between router and agent: whichever side is gone, nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time

import pytest

from gpumand.client.client import Client
from gpumand.fleet.calls import AcquireCall
from gpumand.fleet.remote_host import HOST_LOST
from gpumand.fleet.service import FleetService
from tests.integration.fleet.fleet_hosts import FleetHosts, LocalClient, until, until_async


async def no_leases(hosts: FleetHosts, number: int) -> None:
    async def is_free() -> bool:
        return await hosts.leases(number) == 0

    await until_async(is_free, f"gpu{number} has no lease left")


async def knows(service: FleetService, *names: str) -> None:
    found = service.table.rows
    await until(lambda: {*names} <= {one.row.name for one in found.values()}, f"the router knows {names}")


async def test_remote_lease_has_the_gateway_as_endpoint_and_names_the_user(hosts: FleetHosts) -> None:
    first, _ = await hosts.services(2)
    lease = await first.router.acquire(AcquireCall("chat", 30.0, on="gpu2", user="alice", reason="poster"))

    assert lease.grant["host"] == "gpu2"
    assert lease.grant["endpoint"] == "http://gpu2:8770"
    async with Client(hosts.daemons[1].address) as client:
        (standing,) = (await client.status()).leases
    assert standing.reason.startswith("poster (for alice@")
    assert standing.lifetime == "connection"
    await lease.release()
    assert await hosts.leases(2) == 0, "a release returns when the lease has ended"


async def test_local_lease_has_the_consumers_own_endpoint(hosts: FleetHosts) -> None:
    (first,) = await hosts.services(1)
    lease = await first.router.acquire(AcquireCall("chat", 30.0))
    assert lease.grant["endpoint"] == hosts.daemons[0].urls["chat"]
    await lease.release()


async def test_closed_stream_ends_the_lease(hosts: FleetHosts) -> None:
    await hosts.services(2)
    async with LocalClient(hosts.config(1).socket) as client:
        stream = await client.acquire("chat", on="gpu2", wait_sec=30)
        assert stream.grant["host"] == "gpu2"
        assert await hosts.leases(2) == 1
        stream.close()
        await no_leases(hosts, 2)


async def test_client_that_leaves_while_it_waits_withdraws_its_request(hosts: FleetHosts) -> None:
    first, _ = await hosts.services(2)
    held = await first.router.acquire(AcquireCall("chat", 30.0, on="gpu2"))
    async with LocalClient(hosts.config(1).socket) as client:
        waiting = asyncio.ensure_future(client.acquire("image", on="gpu2", wait_sec=600))

        async def waits() -> int:
            async with Client(hosts.daemons[1].address) as gpumand:
                return len((await gpumand.status()).queue)

        await until_async(waits, "the request waits on gpu2")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    async def is_gone() -> bool:
        return await waits() == 0

    await until_async(is_gone, "the request is withdrawn")
    await held.release()
    assert await hosts.evictions() == 0, "nothing was evicted for it"


async def test_killed_agent_leaves_no_lease_and_its_clients_learn_it(hosts: FleetHosts) -> None:
    agent = await hosts.process(2)
    router = await hosts.service(1)
    await knows(router, "gpu2")
    leases = [await router.router.acquire(AcquireCall("chat", 30.0, on="gpu2")) for _ in range(5)]
    assert await hosts.leases(2) == 5

    agent.kill(signal.SIGKILL)

    async with asyncio.timeout(30):
        assert await asyncio.gather(*(one.wait_ended() for one in leases)) == [HOST_LOST] * 5
    await no_leases(hosts, 2)


async def test_killed_router_leaves_no_lease(hosts: FleetHosts) -> None:
    await hosts.service(2)
    router = await hosts.process(1)
    async with LocalClient(router.config.socket) as client:

        async def knows_both() -> bool:
            return len((await client.get("/v1/hosts"))["hosts"]) == 2

        await until_async(knows_both, "the router knows both hosts")
        for _ in range(3):
            assert (await client.acquire("chat", on="gpu2", wait_sec=30)).grant["host"] == "gpu2"
        assert await hosts.leases(2) == 3
        router.kill(signal.SIGKILL)
        await no_leases(hosts, 2)


async def test_host_that_hangs_is_lost_within_seconds_and_its_consumer_is_loaded_elsewhere(hosts: FleetHosts) -> None:
    agent = await hosts.process(2)
    router = await hosts.service(1)
    await knows(router, "gpu2")
    lease = await router.router.acquire(AcquireCall("chat", 30.0, on="gpu2"))
    await until(lambda: _is_resident(router, "gpu2", "chat"), "the router knows that chat is resident on gpu2")

    began = time.monotonic()
    agent.kill(signal.SIGSTOP)
    try:
        async with asyncio.timeout(30):
            assert await lease.wait_ended() == HOST_LOST
        # 3 s without a sign of life, the last of which may be a second old; the rest is for slow machines.
        assert time.monotonic() - began <= 4.0 + 5.0
        other = await router.router.acquire(AcquireCall("chat", 30.0))
        assert other.grant["host"] == "gpu1"
        await other.release()
    finally:
        agent.kill(signal.SIGCONT)
    await no_leases(hosts, 2)


def _is_resident(service: FleetService, host: str, consumer: str) -> bool:
    known = service.table.find(host)
    return known is not None and known.row.consumers[consumer].residency == "resident"


async def test_terminated_agent_lets_leases_end_and_leaves_the_fleet(hosts: FleetHosts) -> None:
    agent = await hosts.process(2)
    router = await hosts.service(1)
    await knows(router, "gpu2")
    lease = await router.router.acquire(AcquireCall("chat", 30.0, on="gpu2"))

    agent.kill(signal.SIGTERM)
    await until(lambda: "drained" in _states(router, "gpu2"), "the host gets no new requests")
    assert await hosts.leases(2) == 1, "its leases go on"
    await lease.release()

    assert await asyncio.to_thread(agent.wait) == 0
    await until(lambda: router.table.find("gpu2") is None, "the host has left the fleet")
    assert not agent.config.socket.exists()


def _states(service: FleetService, name: str) -> list[str]:
    return [one["state"] for one in service.api.hosts()["hosts"] if one["row"]["name"] == name]


async def test_revoked_lease_is_announced_to_the_client_on_the_other_host(hosts: FleetHosts) -> None:
    first, _ = await hosts.services(2)
    lease = await first.router.acquire(AcquireCall("chat", 30.0, on="gpu2"))
    async with Client(hosts.daemons[1].address) as client:
        await client.evict("chat", force=True)
    async with asyncio.timeout(30):
        assert await lease.wait_ended() == "revoked"


async def test_restart_of_gpumand_keeps_remote_leases(hosts: FleetHosts) -> None:
    first, _ = await hosts.services(2)
    lease = await first.router.acquire(AcquireCall("chat", 30.0, on="gpu2"))
    hosts.daemons[1].stop_daemon(signal.SIGKILL)
    await asyncio.to_thread(hosts.daemons[1].start_daemon)
    assert await hosts.leases(2) == 1
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await lease.wait_ended()
    await lease.release()
    await no_leases(hosts, 2)


@pytest.mark.timeout(2400 if os.environ.get("GPUMAND_FULL_LENGTH") else 120)
async def test_agents_that_are_killed_again_and_again_leave_no_lease(hosts: FleetHosts) -> None:
    """Each time with leases, a waiting request and one that is being granted; 200 times with GPUMAND_FULL_LENGTH."""
    router = await hosts.service(1)
    chooser = random.Random(1)
    for _ in range(200 if os.environ.get("GPUMAND_FULL_LENGTH") else 3):
        agent = await hosts.process(2)
        await until(lambda: _is_up(router, "gpu2"), "the router uses the host")
        works = [AcquireCall("chat", 30.0, on="gpu2"), AcquireCall("chat", 30.0, on="gpu2"), AcquireCall("image", 30.0)]
        requests = [asyncio.ensure_future(router.router.acquire(one)) for one in works]
        await asyncio.sleep(chooser.uniform(0, 1))
        agent.kill(signal.SIGKILL)
        await asyncio.to_thread(agent.wait)
        for one in await asyncio.gather(*requests, return_exceptions=True):
            if not isinstance(one, BaseException):
                await one.release()
        await no_leases(hosts, 2)
        await no_leases(hosts, 1)
        router.table.note_reached(f"{2:032x}")


def _is_up(service: FleetService, name: str) -> bool:
    return _states(service, name) == ["up"]


async def test_hosts_with_the_same_name_are_shown_with_what_to_do(hosts: FleetHosts) -> None:
    first, _ = await hosts.service(1), await hosts.service(2, host="gpu1")
    await until(lambda: len(first.table.rows) == 2, "both hosts are in the fleet")
    shown = first.api.hosts()["hosts"]
    assert [one["row"]["name"] for one in shown] == ["gpu1", "gpu1"]
    assert all("has the same name. Rename one of them: host in fleet.toml" in one["why"] for one in shown), shown
