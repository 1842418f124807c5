"""``make fleet-demo``: three hosts on this machine, consumers asked for through any of them, and a power failure.

Every host is a real gpumand with a simulated GPU of 24 GiB and a gpumand-fleet of its own; gpu1 has a gateway too. What
the screen shows is the output of ``gpumanctl --fleet``, and what the web page of the gateway shows. Without etcd the
hosts ask each other.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from gpumand.cli.fleet.api import FleetApi
from gpumand.demo.fleet_page import FleetPage
from gpumand.fleet.calls import AcquireCall
from gpumand.fleet.lease_streams import LeaseHandle
from gpumand.fleet.local_client import local_fleet
from gpumand.testing.fleet import PrivateFleet

CONSUMERS = {"chat": 14000, "image": 13000, "video": 12000}
HOSTS = 3
ALL_UP = {f"gpu{number}": "up" for number in range(1, HOSTS + 1)}
WAIT_SEC = 60.0
READY_SEC = 30.0
LOST_SEC = 30.0
TTL_SEC = 60.0
"""Longer than the default, so that the lost host stays on the web page for as long as people look at it."""

HOST_TEXT = (
    "Each is a private gpumand with a bus of its own and a simulated GPU, and a gpumand-fleet at a port of 127.0.0.1:",
    "processes of this user, on one network. So neither root nor network namespaces are needed.",
)
ETCD_TEXT = ("The hosts find each other by etcd, which is started here too.",)
PEERS_TEXT = (
    "etcd is not installed (Debian: apt-get install -y etcd-server), so the hosts ask each other once a second.",
    "Without a store they cannot claim intents, and requests for one consumer come one after the other here.",
)


class FleetDemo:
    """Tells the story on the screen.

    Args:
        fleet: the running fleet.
        page: the gateway of gpu1.
    """

    def __init__(self, fleet: PrivateFleet, page: FleetPage) -> None:
        self._fleet, self._page = fleet, page

    async def run(self) -> int:
        """Run the whole story; returns the number of the host that was killed.

        Raises:
            RuntimeError: it takes another course than it should.
        """
        _say("Three hosts with one GPU of 24 GiB each, and the same three consumers.")
        for line in (*HOST_TEXT, *(ETCD_TEXT if self._fleet.has_etcd else PEERS_TEXT)):
            _say(line)
        await self._until_all_are_up()
        self._status(1)
        await self._show_page(ALL_UP)
        places = {"chat": await self._one_consumer_from_every_host()}
        places |= await self._different_consumers()
        # The web page is that of gpu1, so another host is killed.
        victim = next(name for name, host in places.items() if host != "gpu1")
        await self._killed_host(places[victim], victim)
        return _number(places[victim])

    async def _one_consumer_from_every_host(self) -> str:
        how = "at the same time" if self._fleet.has_etcd else "one after the other"
        _chapter(1, f"chat is asked for on every host, {how}")
        leases = await self._chat_leases()
        hosts = {str(lease.grant["host"]) for lease, _ in leases}
        for number, (lease, seconds) in enumerate(leases, start=1):
            loaded = ", which loaded it" if lease.grant["loaded"] else ""
            print(f"   asked on gpu{number}: a lease on {lease.grant['host']}{loaded}, after {seconds:.2f} s")
        if len(hosts) != 1:
            raise RuntimeError(f"chat was loaded on {len(hosts)} hosts")
        if self._fleet.has_etcd:
            _say("It was loaded once: a router claims an intent in the store before it asks a host to load a consumer.")
        else:
            _say("It was loaded once: the other hosts knew already where it is.")
        for lease, _ in leases:
            await lease.release()
        return hosts.pop()

    async def _chat_leases(self) -> list[tuple[_Closing, float]]:
        """A lease on chat from each host: without etcd only after the other hosts know that chat is loaded."""
        if self._fleet.has_etcd:
            return await asyncio.gather(*(self._acquire(number, "chat") for number in range(1, HOSTS + 1)))
        first = await self._acquire(1, "chat")
        await self._until_known("chat", str(first[0].grant["host"]))
        return [first, *[await self._acquire(number, "chat") for number in range(2, HOSTS + 1)]]

    async def _different_consumers(self) -> dict[str, str]:
        """Load two more consumers; returns the host of each."""
        _chapter(2, "image and video are asked for on gpu1")
        places = {}
        for name in ("image", "video"):
            lease, seconds = await self._acquire(1, name)
            places[name] = str(lease.grant["host"])
            print(f"   {name}: {places[name]}, after {seconds:.2f} s; {_evicted(lease)}")
            await lease.release()
            await self._until_known(name, places[name])
        _say("Each went to a host with room for it, so nothing was evicted.")
        self._status(1)
        return places

    async def _killed_host(self, host: str, consumer: str) -> None:
        number, other = _number(host), 1
        _chapter(3, f"{host} loses its power while gpu{other} holds a lease on {consumer} there")
        async with self._lease(other, consumer) as lease:
            began = time.monotonic()
            self._fleet.cut_power(number)
            async with asyncio.timeout(LOST_SEC):
                reason = await lease.wait_ended()
        print(f"   gpu{other} knows it after {time.monotonic() - began:.1f} s: the lease has ended ({reason})")
        lease, seconds = await self._acquire(other, consumer)
        print(f"   asked again: a lease on {lease.grant['host']}, after {seconds:.2f} s; {_evicted(lease)}")
        if lease.grant["host"] == host:
            raise RuntimeError(f"{host} has no power and cannot have granted a lease")
        await self._until_known(consumer, str(lease.grant["host"]), hosts=1)
        self._status(other)
        await lease.release()
        # Hosts that ask each other forget a host that does not answer; with etcd its row stays until its lease ends.
        others = {name: state for name, state in ALL_UP.items() if name != host}
        await self._show_page(ALL_UP | {host: "lost"} if self._fleet.has_etcd else others)

    async def _show_page(self, wanted: dict[str, str]) -> None:
        """Print what the web page shows, once it is this. Raises RuntimeError if it is not in time."""
        deadline = time.monotonic() + READY_SEC
        while (states := await asyncio.to_thread(_shown, self._page)) != wanted:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the web page shows {states}")
            await asyncio.sleep(0.1)
        _say(f"The web page {self._page.url} shows: {', '.join(f'{name} {one}' for name, one in states.items())}")

    async def _until_known(self, consumer: str, host: str, hosts: int = HOSTS) -> None:
        """Wait until the first hosts of the fleet know that a consumer is resident on a host. Raises RuntimeError."""
        deadline = time.monotonic() + READY_SEC
        for agent in self._fleet.agents[:hosts]:
            while not await asyncio.to_thread(_is_resident, str(agent.config.socket), consumer, host):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{agent.config.host} does not know that {consumer} is loaded on {host}")
                await asyncio.sleep(0.1)

    async def _until_all_are_up(self) -> None:
        deadline = time.monotonic() + READY_SEC
        for number in range(1, HOSTS + 1):
            while await self._known(number) < HOSTS:
                if time.monotonic() > deadline:
                    raise RuntimeError("the hosts do not find each other")
                await asyncio.sleep(0.1)

    async def _known(self, number: int) -> int:
        done = await asyncio.to_thread(self._ctl, number, "plan", "chat", "--json")
        return done.stdout.count('"machine_id"') if done.returncode == 0 else 0

    async def _acquire(self, number: int, consumer: str) -> tuple[_Closing, float]:
        """Acquire on a host; the lease ends with its release."""
        began = time.monotonic()
        held = self._lease(number, consumer)
        lease = await held.__aenter__()
        return _Closing(lease, held), time.monotonic() - began

    @asynccontextmanager
    async def _lease(self, number: int, consumer: str) -> AsyncIterator[LeaseHandle]:
        async with local_fleet(str(self._fleet.agents[number - 1].config.socket)) as fleet:
            lease = await fleet.acquire(AcquireCall(consumer, WAIT_SEC, reason="fleet-demo"))
            try:
                yield lease
            finally:
                await lease.release()

    def _status(self, number: int) -> None:
        print(f"\n   $ gpumanctl --fleet status        # on gpu{number}")
        for line in self._ctl(number, "status").stdout.splitlines():
            print(f"   {line}")
        print(flush=True)

    def _ctl(self, number: int, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gpumand.cli", "--fleet", *arguments]
        environ = os.environ | self._fleet.environ(number)
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environ, timeout=60)


class _Closing:
    """A lease that closes its connection when it is released."""

    def __init__(self, lease: LeaseHandle, held: Any) -> None:
        self._lease, self._held = lease, held

    @property
    def grant(self) -> Any:
        return self._lease.grant

    async def wait_ended(self) -> str:
        return await self._lease.wait_ended()

    async def release(self) -> None:
        await self._held.__aexit__(None, None, None)


def _shown(page: FleetPage) -> dict[str, str]:
    """The hosts on the web page; none while it does not answer."""
    with suppress(OSError, ValueError):
        return page.states()
    return {}


def _is_resident(socket: str, consumer: str, host: str) -> bool:
    """Whether the agent behind a socket knows that a consumer is loaded on a host."""
    rows = [one["row"] for one in FleetApi(socket).hosts()["hosts"]]
    return any(one["name"] == host and one["consumers"].get(consumer, {}).get("r") == "resident" for one in rows)


def _number(host: str) -> int:
    return int(host.removeprefix("gpu"))


def _evicted(lease: LeaseHandle) -> str:
    victims = lease.grant.get("evicted") or []
    return f"evicted {', '.join(map(str, victims))}" if victims else "nothing was evicted"


def _say(text: str) -> None:
    print(f" {text}", flush=True)


def _chapter(number: int, text: str) -> None:
    print(f"\n {number}. {text}", flush=True)


async def _wait(fleet: PrivateFleet, page: FleetPage, without: int = 0) -> None:
    """Leave the hosts running until Ctrl-C.

    Args:
        fleet: the hosts.
        page: the gateway of one of them.
        without: number of the host that has no power.
    """
    _say(f"The hosts run until Ctrl-C. Web page: {page.url}\n Use one of them from another terminal:\n")
    for number in range(1, HOSTS + 1):
        if number != without:
            print(f"   export GPUMAND_FLEET={fleet.environ(number)['GPUMAND_FLEET']}   # gpu{number}")
    print("   gpumanctl --fleet status\n   gpumanctl --fleet plan chat\n   gpumanctl --fleet top", flush=True)
    await asyncio.Event().wait()


async def _demonstrate(fleet: PrivateFleet, page: FleetPage, given: argparse.Namespace) -> None:
    killed = 0 if given.run else await FleetDemo(fleet, page).run()
    if given.run or given.keep:
        await _wait(fleet, page, killed)
    _say("All processes of the demonstration are stopped now.")


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gpumand.demo.fleet", description="Demonstrate a fleet of 3 hosts.")
    parser.add_argument("--run", action="store_true", help="only start the hosts, to try commands, until Ctrl-C")
    parser.add_argument("--keep", action="store_true", help="leave the hosts running after the story, until Ctrl-C")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration, and leave the hosts running with ``--run`` or ``--keep``; returns the exit status."""
    given = _arguments(arguments)
    if not shutil.which("dbus-daemon"):
        text = "demo: dbus-daemon is not installed. Install it: apt-get install -y dbus-daemon"
        print(text, file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # ended in any way, it leaves no process behind
    try:
        with (
            PrivateFleet(CONSUMERS, hosts=HOSTS, ttl_sec=TTL_SEC) as fleet,
            FleetPage(fleet.daemons[0].address, fleet.agents[0].config.socket) as page,
        ):
            asyncio.run(_demonstrate(fleet, page, given))
    except RuntimeError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        with suppress(OSError):
            print("\nInterrupted. All processes of the demonstration have been stopped.", file=sys.stderr)
        return 0 if given.run or given.keep else 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
