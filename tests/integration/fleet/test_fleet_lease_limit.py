"""A host whose leases are all taken is not preferred, although the consumer is resident there."""

from __future__ import annotations

from gpumand.client.client import Client
from gpumand.fleet.calls import AcquireCall
from gpumand.fleet.service import FleetService
from tests.integration.fleet.fleet_hosts import fleet_hosts, running_daemons, until
from tests.integration.fleet.plain_etcd import PlainEtcd

ONE_LEASE = "[scheduler]\nconcurrent_leases = 1\n"


def row_of(service: FleetService, host: str) -> tuple[str, int, int | None]:
    found = service.table.find(host)
    chat = None if found is None else found.row.consumers.get("chat")
    return ("", 0, None) if chat is None else (str(chat.residency), chat.leases, chat.limit)


async def test_copy_whose_lease_is_taken_comes_after_one_that_is_free(shared_etcd: PlainEtcd) -> None:
    with running_daemons(2, {"chat": 14000, "image": 4000}, ONE_LEASE) as daemons:
        async with fleet_hosts(daemons, shared_etcd.url) as hosts:
            first, _ = await hosts.services(2)
            for one in daemons:
                async with Client(one.address) as client:
                    await client.load("chat")
            for name in ("gpu1", "gpu2"):
                await until(lambda name=name: row_of(first, name) == ("resident", 0, 1), "both have it")  # type: ignore[misc]
            taken = await first.router.acquire(AcquireCall("chat", 30.0))
            preferred = str(taken.grant["host"])
            other = {"gpu1": "gpu2", "gpu2": "gpu1"}[preferred]
            await until(lambda: row_of(first, preferred) == ("resident", 1, 1), "the row shows that it is taken")

            second = await first.router.acquire(AcquireCall("chat", 30.0))

            assert second.grant["host"] == other
