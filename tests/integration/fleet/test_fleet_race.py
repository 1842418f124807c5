"""Two routers, three hosts and three consumers, of which each host has room for one."""

from __future__ import annotations

import asyncio
import contextvars
import random
from typing import Any

import pytest

from gpumand.fleet.calls import AcquireCall
from gpumand.fleet.etcd_client import EtcdClient
from gpumand.fleet.intents import Intents, Permit
from gpumand.fleet.service import FleetService
from tests.integration.fleet.fleet_hosts import SIZES, FleetHosts, until, until_async

REQUESTS = 72
HOLD_SEC = 0.2


async def request(service: FleetService, consumer: str) -> str:
    """Acquire a consumer, hold it for a moment, and return the host."""
    lease = await service.router.acquire(AcquireCall(consumer, 60.0))
    await asyncio.sleep(HOLD_SEC)
    await lease.release()
    assert "degraded" not in lease.grant
    return str(lease.grant["host"])


async def storm(routers: list[FleetService], seed: int) -> list[str]:
    """Send all requests within two seconds, alternating between the routers."""
    chooser = random.Random(seed)

    async def later(number: int) -> str:
        await asyncio.sleep(chooser.uniform(0, 2))
        return await request(routers[number % 2], names[number])

    names = [chooser.choice(list(SIZES)) for _ in range(REQUESTS)]
    return await asyncio.gather(*(later(number) for number in range(REQUESTS)))


@pytest.mark.parametrize("seed", [1, 2])
async def test_two_routers_never_load_a_consumer_twice(hosts: FleetHosts, seed: int) -> None:
    routers = (await hosts.services())[:2]

    served = await storm(routers, seed)

    loads, evictions = await hosts.loads(), await hosts.evictions()
    assert len(served) == REQUESTS
    assert loads <= len(SIZES) + evictions
    assert evictions <= len(SIZES), f"{loads} loads and {evictions} evictions for {len(SIZES)} consumers"
    for number in (1, 2, 3):
        assert await hosts.leases(number) == 0


async def test_intents_end_when_the_rows_show_the_loads(hosts: FleetHosts) -> None:
    routers = (await hosts.services())[:2]
    await asyncio.gather(*(request(one, name) for one in routers for name in SIZES))

    async def is_clean() -> bool:
        return not (await routers[0].store.list(routers[0].table._keys.intents)).entries

    await until_async(is_clean, "no intent is left")
    await until(lambda: not routers[1].table.view().intents, "the routers know it")


# -- what a request costs --------------------------------------------------------------------------------------------

permitting: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("permitting", default=None)


@pytest.fixture
def round_trips(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The calls of etcd that each request has waited for, in the order of the requests."""
    found: list[list[str]] = []
    permit, call = Intents.permit, EtcdClient.call

    async def counted_permit(self: Intents, *args: Any, **more: Any) -> Permit:
        calls: list[str] = []
        token = permitting.set(calls)
        try:
            return await permit(self, *args, **more)
        finally:
            permitting.reset(token)
            found.append(list(calls))

    async def counted_call(self: EtcdClient, path: str, *args: Any, **more: Any) -> Any:
        if (calls := permitting.get()) is not None:
            calls.append(path)
        return await call(self, path, *args, **more)

    monkeypatch.setattr(Intents, "permit", counted_permit)
    monkeypatch.setattr(EtcdClient, "call", counted_call)
    return found


async def test_load_costs_two_round_trips_of_etcd_and_a_resident_consumer_none(
    hosts: FleetHosts, round_trips: list[list[str]]
) -> None:
    first, second, _ = await hosts.services()

    host = await request(first, "chat")
    await until(lambda: "chat" in _resident(second), "the other router knows that chat is resident")
    again = await request(second, "chat")

    assert again == host
    assert len(round_trips) == 2
    assert 1 <= len(round_trips[0]) <= 2, round_trips
    assert round_trips[1] == []


def _resident(service: FleetService) -> set[str]:
    rows = [one.row for one in service.table.rows.values()]
    return {name for row in rows for name, one in row.consumers.items() if one.residency == "resident"}
