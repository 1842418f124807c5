"""Three hosts in namespaces: each has a gpumand on its own bus, a member of etcd, and an agent with its router."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from gpumand.client.client import Client
from gpumand.fleet.settings import EtcdConfig, FleetConfig
from gpumand.testing.daemon import PrivateGpumand
from gpumand.testing.fleet import EVERYTHING, FleetProcess
from tests.fleet.network import Network, require_namespaces
from tests.integration.fleet.fleet_hosts import DEADLINE_SEC, LocalClient, LocalStream, until_async
from tests.integration.fleet.plain_etcd import MEMORY_FOLDER

TTL_SEC = 6.0
HOSTS = (1, 2, 3)
SIZES = {"chat": 14000, "image": 9000, "licensed": 4000}
"""The consumers of each host; ``licensed`` may be loaded on one host of the fleet only."""

UNIQUE_NAME = "licensed"
UNIQUE = 'fleet = "unique"'
"""Belongs to the table of the last consumer, which it follows in the configuration."""

CLOCK = """
import gpumand.fleet.clock as clock
from pathlib import Path
offsets = Path({file!r})
boottime, realtime_usec = clock.BoottimeClock.boottime, clock.BoottimeClock.realtime_usec
def offset(index): return float(offsets.read_text().split()[index])
clock.BoottimeClock.boottime = lambda self: boottime(self) + offset(0)
clock.BoottimeClock.realtime_usec = lambda self: realtime_usec(self) + int(offset(1) * 1e6)
"""
"""Begins the program of an agent, so that a test can set its clocks."""


class Member:
    """The member of etcd on one host."""

    def __init__(self, network: Network, host: int, folder: Path, members: tuple[int, ...]) -> None:
        self._network, self._host, self._folder, self._members = network, host, folder, members
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{self._network.address(self._host)}:2379"

    def start(self) -> None:
        own = f"http://{self._network.address(self._host)}"
        cluster = ",".join(f"m{one}=http://{self._network.address(one)}:2380" for one in self._members)
        command = ["etcd", f"--name=m{self._host}", f"--data-dir={self._folder}/etcd{self._host}"]
        command += [f"--listen-client-urls={own}:2379", f"--advertise-client-urls={own}:2379"]
        command += [f"--listen-peer-urls={own}:2380", f"--initial-advertise-peer-urls={own}:2380"]
        command += [f"--initial-cluster={cluster}"]
        with (self._folder / f"etcd{self._host}.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._network.command(self._host, *command), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait()

    def status(self) -> dict[str, Any]:
        """The status that the member reports; empty while it does not answer."""
        command = ["curl", "--silent", "--max-time", "2", "--data", "{}", f"{self.url}/v3/maintenance/status"]
        done = subprocess.run(self._network.command(self._host, *command), capture_output=True, check=False, timeout=30)
        try:
            return dict(json.loads(done.stdout))
        except ValueError:
            return {}

    def close(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()


class Agent(FleetProcess):
    """Agent and router of one host, in its namespace, with clocks that the test sets."""

    def __init__(self, config: FleetConfig, network: Network, host: int) -> None:
        super().__init__(config)
        self._network, self._host = network, host
        self._clock = config.socket.with_suffix(".clock")
        self.set_clocks()

    def set_clocks(self, boot_sec: float = 0.0, wall_sec: float = 0.0) -> None:
        """Set how far the clocks of the agent are ahead."""
        written = self._clock.with_suffix(".new")
        written.write_text(f"{boot_sec} {wall_sec}", encoding="ascii")
        written.rename(self._clock)

    def command(self, program: str) -> list[str]:
        program = CLOCK.format(file=str(self._clock)) + program
        return self._network.command(self._host, *super().command(program))


class Lab:
    """The hosts. Use ``running_lab``.

    Attributes:
        network: the cables.
        daemons: the gpumand of each host, host 1 first.
        members: the member of etcd of each host.
        agents: the agent of each host.
    """

    def __init__(self, folder: Path, members: tuple[int, ...]) -> None:
        self.network = Network(len(HOSTS))
        self.daemons = [PrivateGpumand(SIZES, config=UNIQUE) for _ in HOSTS]
        self.members = {host: Member(self.network, host, folder, members) for host in members}
        self.agents: dict[int, Agent] = {}
        self.clients: dict[int, LocalClient] = {}
        self._folder = folder

    # -- start and end --

    def start_hosts(self) -> None:
        self.network.create()
        for member in self.members.values():
            member.start()
        with ThreadPoolExecutor(len(HOSTS)) as pool:
            list(pool.map(PrivateGpumand.start, self.daemons))

    async def start_agents(self) -> None:
        self.agents = {host: Agent(self._config(host), self.network, host) for host in HOSTS}
        self.clients = {host: LocalClient(agent.config.socket) for host, agent in self.agents.items()}
        await self.restart_agents(*HOSTS)

    async def restart_agents(self, *hosts: int) -> None:
        """Start agents, which were killed or never ran, and wait until all hosts are up."""
        for host in hosts:
            self.agents[host].close()
        await asyncio.gather(*(asyncio.to_thread(self.agents[host].start) for host in hosts))
        await self.until_all_up()

    def _config(self, host: int) -> FleetConfig:
        address = self.network.address(host)
        return FleetConfig(
            fleet="lab",
            host=f"gpu{host}",
            machine_id=f"{host:032x}",
            url=f"http://{address}:8447",
            listen=(f"{address}:8447",),
            socket=self._folder / f"gpu{host}.sock",
            bus=self.daemons[host - 1].address,
            ttl_sec=TTL_SEC,
            etcd=EtcdConfig(self._endpoints(host)),
            allow=EVERYTHING,
        )

    def _endpoints(self, host: int) -> tuple[str, ...]:
        """The members of etcd, that of the host itself first."""
        order = sorted(self.members, key=lambda one: one != host)
        return tuple(self.members[one].url for one in order)

    async def close(self) -> None:
        for client in self.clients.values():
            await client.__aexit__()
        for agent in self.agents.values():
            agent.close()
        for member in self.members.values():
            member.close()
        for daemon in self.daemons:
            daemon.close()
        self.network.close()

    # -- what is there --

    async def hosts(self, at: int = 1) -> dict[str, str]:
        """State of each host that the router of a host knows, by name."""
        return {one["row"]["name"]: one["state"] for one in (await self.clients[at].get("/v1/hosts"))["hosts"]}

    async def degraded(self, at: int = 1) -> str:
        """Why a router has no news from the store; "" while it has."""
        return str((await self.clients[at].get("/v1/hosts"))["degraded"])

    async def until_all_up(self) -> None:
        """Wait until every router has news of every host."""
        for host in HOSTS:
            try:
                await until_async(lambda host=host: self._is_complete(host), f"gpu{host} knows all hosts")  # type: ignore[misc]
            except AssertionError as error:
                known = await self.clients[host].get("/v1/hosts")
                raise AssertionError(f"{error}: {json.dumps(known)}\n{self.logs()}") from None

    def logs(self) -> str:
        """The ends of the logs of all agents."""
        files = sorted(self._folder.glob("gpu*.log"))
        return "\n".join(f"--- {one.name}\n{one.read_text(errors='replace')[-4000:]}" for one in files)

    async def _is_complete(self, at: int) -> bool:
        found = await self.hosts(at)
        return list(found.values()) == ["up"] * len(HOSTS) and not await self.degraded(at)

    async def leases(self, host: int) -> int:
        """Number of leases of a host's gpumand."""
        async with Client(self.daemons[host - 1].address) as client:
            return len((await client.status()).leases)

    async def residency(self, host: int, consumer: str) -> str:
        """Where a consumer is, as the host's own gpumand reports it."""
        async with Client(self.daemons[host - 1].address) as client:
            found = (await client.status()).consumer(consumer)
        return str(found.residency) if found else ""

    async def until_unloaded(self, host: int, consumer: str) -> None:
        """Wait until a host's own gpumand reports that it has unloaded a consumer."""

        async def is_unloaded() -> bool:
            return await self.residency(host, consumer) == "unloaded"

        await until_async(is_unloaded, f"gpu{host} has unloaded {consumer}\n{self.logs()}")

    async def until_leases(self, host: int, number: int) -> None:
        """Wait until a host's gpumand has this number of leases."""

        async def has() -> bool:
            return await self.leases(host) == number

        await until_async(has, f"gpu{host} has {number} leases")

    async def acquire(self, at: int, consumer: str, **options: Any) -> LocalStream:
        """Acquire a consumer through the router of a host; a refusal is an AssertionError."""
        stream = await self.clients[at].acquire(consumer, **{"wait_sec": 60, **options})
        assert "host" in stream.grant, stream.grant
        return stream

    async def local_lease_sec(self, host: int, consumer: str = "image") -> float:
        """Seconds that a lease of the host's own gpumand takes, without the fleet."""
        began = time.monotonic()
        async with Client(self.daemons[host - 1].address) as client, client.lease(consumer, timeout_sec=60):
            return time.monotonic() - began

    # -- etcd --

    def leader(self) -> int:
        """The host of etcd's leader. A host that comes back can cause an election, so there can be none at first."""
        deadline = time.monotonic() + DEADLINE_SEC
        while not (found := self.leader_now()):
            assert time.monotonic() < deadline, "etcd has no leader"
            time.sleep(0.1)
        return found

    def leader_now(self) -> int:
        """The host of etcd's leader; 0 while there is none."""
        for host, member in self.members.items():
            status = member.status()
            if status.get("leader", "0") != "0" and status["leader"] == status["header"]["member_id"]:
                return host
        return 0

    def followers(self) -> list[int]:
        """The other hosts with members."""
        leader = self.leader()
        return [host for host in self.members if host != leader]

    # -- whole hosts --

    def signal_host(self, host: int, number: int) -> None:
        """Send a signal to the agent and the member of a host, as a suspend does to all of its processes."""
        self.agents[host].kill(number)
        if host in self.members:
            self.members[host].kill(number)

    def resume_host(self, host: int, slept_sec: float) -> None:
        """Continue the processes of a host whose clocks have gone on meanwhile."""
        self.agents[host].set_clocks(boot_sec=slept_sec)
        self.signal_host(host, signal.SIGCONT)

    async def calm(self) -> None:
        """Wait for the state that each test begins with: all up, and nothing leased or loaded."""
        await self.until_all_up()
        for host in HOSTS:
            await self.until_leases(host, 0)
            async with Client(self.daemons[host - 1].address) as client:
                for name in SIZES:
                    await client.evict(name, force=True)


@asynccontextmanager
async def running_lab(members: tuple[int, ...] = HOSTS) -> AsyncIterator[Lab]:
    """Run the hosts.

    Args:
        members: the hosts that have a member of etcd.
    """
    require_namespaces()
    folder = Path(tempfile.mkdtemp(prefix="fleet-lab-", dir=MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else None))
    lab = Lab(folder, members)
    try:
        await asyncio.to_thread(lab.start_hosts)
        await lab.start_agents()
        yield lab
    finally:
        await lab.close()
        shutil.rmtree(folder, ignore_errors=True)
