"""Several hosts on one machine: real daemons on private buses, each with an agent and router, and one etcd.

The parts of ``gpumand-fleet`` run in this process, where a test can look into them, or as processes that it can kill.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from gpumand.client.client import Client
from gpumand.fleet.clock import BoottimeClock
from gpumand.fleet.service import FleetService, tls_contexts
from gpumand.fleet.settings import EtcdConfig, FleetConfig
from gpumand.fleet.stores import open_store
from gpumand.testing.daemon import PrivateGpumand
from gpumand.testing.fleet import EVERYTHING, FleetProcess
from tests import waiting

DEADLINE_SEC = 60.0

SIZES = {"chat": 14000, "image": 13000, "video": 12000}
"""Consumers of each host, of which only one fits into its 24 GiB at a time."""

until = partial(waiting.until, within_sec=DEADLINE_SEC)
until_async = partial(waiting.until_answer, within_sec=DEADLINE_SEC)


class FleetHosts:
    """Daemons and a fleet of its own, so that several tests can use the same daemons and etcd.

    Attributes:
        daemons: the daemon of each host, gpu1 first.
        folder: sockets and logs.
    """

    def __init__(self, daemons: Sequence[PrivateGpumand], folder: Path, etcd_url: str) -> None:
        self.daemons, self.folder = list(daemons), folder
        self._etcd_url, self._fleet = etcd_url, f"lab-{secrets.token_hex(4)}"
        self._counted: dict[str, int] = {}
        self._services: list[FleetService] = []
        self._processes: list[FleetProcess] = []

    def config(self, number: int, **more: Any) -> FleetConfig:
        """The configuration of host ``number``, counted from 1."""
        defaults: dict[str, Any] = {
            "fleet": self._fleet,
            "host": f"gpu{number}",
            "machine_id": f"{number:032x}",
            "url": "http://127.0.0.1:0",
            "listen": ("127.0.0.1:0",),
            "gateway_url": f"http://gpu{number}:8770",
            "socket": self.folder / f"gpu{number}.sock",
            "bus": self.daemons[number - 1].address,
            "etcd": EtcdConfig((self._etcd_url,)),
            "allow": EVERYTHING,
        }
        return FleetConfig(**(defaults | more))

    async def service(self, number: int, **more: Any) -> FleetService:
        """Start agent and router of a host in this process."""
        config = self.config(number, **more)
        tls = await tls_contexts(config)
        store = await open_store(config, BoottimeClock(), None if tls is None else tls[1])
        service = FleetService(config, store, config.machine_id, tls)
        self._services.append(service)
        await service.start()
        return service

    async def services(self, count: int = 3, **more: Any) -> list[FleetService]:
        """Start agents and routers of several hosts, and wait until each of them knows all hosts."""
        started = [await self.service(number, **more) for number in range(1, count + 1)]
        for one in started:
            await until(lambda one=one: len(one.table.rows) == count, "every router knows all hosts")  # type: ignore[misc]
        return started

    async def process(self, number: int, **more: Any) -> FleetProcess:
        """Start agent and router of a host as a process of its own."""
        process = FleetProcess(self.config(number, **more))
        self._processes.append(process)
        return await asyncio.to_thread(process.start)

    async def leases(self, number: int) -> int:
        """Number of leases of a host's gpumand."""
        async with Client(self.daemons[number - 1].address) as client:
            return len((await client.status()).leases)

    async def begin(self) -> None:
        """Unload everything, and count loads and evictions from now on."""
        for daemon in self.daemons:
            async with Client(daemon.address) as client:
                for name in [one.name for one in (await client.status()).consumers]:
                    await client.evict(name, force=True)
        await self.begin_count()

    async def begin_count(self) -> None:
        """Count loads and evictions from now on."""
        self._counted = {name: await self._sum(name) for name in ("loads", "evictions")}

    async def residency(self, number: int, consumer: str) -> str:
        """Where a consumer of a host is."""
        async with Client(self.daemons[number - 1].address) as client:
            found = (await client.status()).consumer(consumer)
        return str(found.residency) if found else ""

    async def loads(self) -> int:
        """Number of loads of all hosts since ``begin``."""
        return await self._sum("loads") - self._counted["loads"]

    async def evictions(self) -> int:
        """Number of evictions of all hosts since ``begin``."""
        return await self._sum("evictions") - self._counted["evictions"]

    async def _sum(self, counter: str) -> int:
        total = 0
        for daemon in self.daemons:
            async with Client(daemon.address) as client:
                total += (await client.status()).stats.get(counter, 0)
        return total

    async def close(self) -> None:
        """End all services and processes."""
        for service in self._services:
            await service.close()
        for process in self._processes:
            process.close()


@contextmanager
def running_daemons(
    count: int = 3, sizes: Mapping[str, int] = SIZES, config: str = ""
) -> Iterator[list[PrivateGpumand]]:
    """Daemons with the same consumers."""
    daemons = [PrivateGpumand(sizes, config=config) for _ in range(count)]
    try:
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(PrivateGpumand.start, daemons))
        yield daemons
    finally:
        for one in daemons:
            one.close()


@asynccontextmanager
async def fleet_hosts(daemons: Sequence[PrivateGpumand], etcd_url: str) -> AsyncIterator[FleetHosts]:
    """A new fleet of daemons, with nothing loaded."""
    with tempfile.TemporaryDirectory(prefix="gpumand-fleet-") as folder:
        hosts = FleetHosts(daemons, Path(folder), etcd_url)
        try:
            await hosts.begin()
            yield hosts
        finally:
            await hosts.close()


class LocalClient:
    """A client of the local API of one host.

    Args:
        path: its socket.
    """

    def __init__(self, path: Path) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_read=DEADLINE_SEC)
        self._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path), limit=0), timeout=timeout)

    async def __aenter__(self) -> LocalClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, path: str) -> dict[str, Any]:
        async with self._session.get(f"http://fleet{path}") as response:
            return dict(await response.json())

    async def post(self, path: str, **body: Any) -> tuple[int, dict[str, Any]]:
        async with self._session.post(f"http://fleet{path}", json=body) as response:
            return response.status, dict(await response.json())

    async def acquire(self, consumer: str, **body: Any) -> LocalStream:
        """Acquire a lease, which ends with the stream."""
        response = await self._session.post("http://fleet/v1/acquire", json={"consumer": consumer, **body})
        stream = LocalStream(response)
        stream.grant = await stream.line()
        return stream


class LocalStream:
    """A lease of the local API."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.grant: dict[str, Any] = {}

    async def line(self) -> dict[str, Any]:
        """The next line that is no sign of life."""
        while True:
            line = await self._response.content.readline()
            if line.strip() or not line:
                return dict(json.loads(line or b"{}"))

    def close(self) -> None:
        """Close the connection, which ends the lease."""
        self._response.close()
