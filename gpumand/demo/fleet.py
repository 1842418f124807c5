"""``make fleet-demo``: three hosts on this machine, consumers asked for through any of them, and a power failure.

Every host is a real gpumand with a simulated GPU of 24 GiB and a gpumand-fleet of its own. What the screen shows is the
output of ``gpumanctl --fleet``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from gpumand.fleet.calls import AcquireCall
from gpumand.fleet.lease_streams import LeaseHandle
from gpumand.fleet.local_client import local_fleet
from gpumand.testing.fleet import PrivateFleet

CONSUMERS = {"chat": 14000, "image": 13000, "video": 12000}
HOSTS = 3
WAIT_SEC = 60.0
READY_SEC = 30.0
LOST_SEC = 30.0


class FleetDemo:
    """Tells the story on the screen.

    Args:
        fleet: the running fleet.
    """

    def __init__(self, fleet: PrivateFleet) -> None:
        self._fleet = fleet

    async def run(self) -> None:
        """Run the whole story. Raises RuntimeError if it takes another course than it should."""
        _say("Three hosts with one GPU of 24 GiB each, and the same three consumers. They find each other by etcd.")
        await self._until_all_are_up()
        self._status(1)
        host = await self._one_consumer_from_every_host()
        await self._different_consumers()
        await self._killed_host(host)
        _say("All processes of the demonstration are stopped now.")

    async def _one_consumer_from_every_host(self) -> str:
        _chapter(1, "chat is asked for on every host at the same time")
        leases = await asyncio.gather(*(self._acquire(number, "chat") for number in range(1, HOSTS + 1)))
        hosts = {str(lease.grant["host"]) for lease, _ in leases}
        for number, (lease, seconds) in enumerate(leases, start=1):
            loaded = ", which loaded it" if lease.grant["loaded"] else ""
            print(f"   asked on gpu{number}: a lease on {lease.grant['host']}{loaded}, after {seconds:.2f} s")
        if len(hosts) != 1:
            raise RuntimeError(f"chat was loaded on {len(hosts)} hosts")
        _say("It was loaded once: a router claims an intent in the store before it asks a host to load a consumer.")
        for lease, _ in leases:
            await lease.release()
        return hosts.pop()

    async def _different_consumers(self) -> None:
        _chapter(2, "image and video are asked for on gpu1")
        for name in ("image", "video"):
            lease, seconds = await self._acquire(1, name)
            print(f"   {name}: {lease.grant['host']}, after {seconds:.2f} s; {_evicted(lease)}")
            await lease.release()
        _say("Each went to a host with room for it, so nothing was evicted.")
        await asyncio.sleep(1.0)
        self._status(1)

    async def _killed_host(self, host: str) -> None:
        number = int(host.removeprefix("gpu"))
        other = number % HOSTS + 1
        _chapter(3, f"{host} loses its power while gpu{other} holds a lease on chat there")
        async with self._lease(other, "chat") as lease:
            began = time.monotonic()
            self._fleet.cut_power(number)
            async with asyncio.timeout(LOST_SEC):
                reason = await lease.wait_ended()
        print(f"   gpu{other} knows it after {time.monotonic() - began:.1f} s: the lease has ended ({reason})")
        lease, seconds = await self._acquire(other, "chat")
        print(f"   asked again: a lease on {lease.grant['host']}, after {seconds:.2f} s; {_evicted(lease)}")
        if lease.grant["host"] == host:
            raise RuntimeError(f"{host} has no power and cannot have granted a lease")
        self._status(other)
        await lease.release()

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

    async def _acquire(self, number: int, consumer: str) -> tuple[LeaseHandle, float]:
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


def _evicted(lease: LeaseHandle) -> str:
    victims = lease.grant.get("evicted") or []
    return f"evicted {', '.join(map(str, victims))}" if victims else "nothing was evicted"


def _say(text: str) -> None:
    print(f" {text}", flush=True)


def _chapter(number: int, text: str) -> None:
    print(f"\n {number}. {text}", flush=True)


async def _wait(fleet: PrivateFleet) -> None:
    """Leave the hosts running until Ctrl-C."""
    _say("The hosts run until Ctrl-C. Use one of them from another terminal:\n")
    for number in range(1, HOSTS + 1):
        print(f"   export GPUMAND_FLEET={fleet.environ(number)['GPUMAND_FLEET']}   # gpu{number}")
    print("   gpumanctl --fleet status\n   gpumanctl --fleet plan chat\n   gpumanctl --fleet top", flush=True)
    await asyncio.Event().wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration, or leave the hosts running with ``--run``; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m gpumand.demo.fleet", description="Demonstrate a fleet of 3 hosts.")
    parser.add_argument("--run", action="store_true", help="leave the hosts running to try commands, until Ctrl-C")
    given = parser.parse_args(arguments)
    for program, package in (("dbus-daemon", "dbus-daemon"), ("etcd", "etcd-server")):
        if not shutil.which(program):
            print(f"demo: {program} is not installed. Install it: apt-get install -y {package}", file=sys.stderr)
            return 1
    try:
        with PrivateFleet(CONSUMERS, hosts=HOSTS) as fleet:
            asyncio.run(_wait(fleet) if given.run else FleetDemo(fleet).run())
    except RuntimeError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        with suppress(OSError):
            print("\nInterrupted. All processes of the demonstration have been stopped.", file=sys.stderr)
        return 0 if given.run else 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
