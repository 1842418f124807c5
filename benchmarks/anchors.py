"""Compares a lease of gpumand with what two system services written in C do for the same kind of request.

Run it on a booted system with a running gpumand and a consumer that is loaded, as root or as a member of the group
gpumand; it needs nothing but Python and dbus-fast, which gpumand needs too::

    /usr/bin/python3 -m benchmarks.anchors CONSUMER

All services are called on the system bus, from one connection, in alternating rounds of one run. On a busy host, times
differ from run to run, and their ratios less. The leases are short ones of a consumer that is loaded already. The
inhibitor locks block only the idle action, and power-profiles-daemon holds the profile ``power-saver`` during its
rounds. A service that is not installed is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from dbus_fast import BusType, Message, MessageType, Variant
from dbus_fast.aio import MessageBus

ROUNDS = 12
CALLERS = (1, 32)
PAIRS = {1: 60, 32: 256}
"""Callers -> requests of all callers together in a round."""

GPUMAND = ("org.gpumand1", "/org/gpumand1", "org.gpumand1.Manager")
LOGIND = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
PROFILES = ("net.hadess.PowerProfiles", "/net/hadess/PowerProfiles", "net.hadess.PowerProfiles")
PEER = "org.freedesktop.DBus.Peer"

Pair = Callable[[], Awaitable[None]]


class CallFailed(Exception):
    """A service answered with an error; the message is its name and text."""


class Bus:
    """The system bus: calls that return the reply, and raise CallFailed for an error."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus

    async def call(self, service: tuple[str, str, str], member: str, signature: str = "", *body: Any) -> Message:
        """Call a method of a service, given by name, path and interface."""
        reply = await self._bus.call(Message(*service, member, signature=signature, body=list(body)))
        assert reply is not None
        if reply.message_type is MessageType.ERROR:
            raise CallFailed(f"{service[0]}: {reply.error_name}: {reply.body}")
        return reply

    async def ping(self, service: tuple[str, str, str]) -> None:
        """One round trip to a service, answered by its connection to the bus."""
        await self.call((*service[:2], PEER), "Ping")


def pairs_of_calls(bus: Bus, consumer: str) -> dict[str, Pair]:
    """Name -> what one caller does; gpumand's lease comes first."""

    async def lease() -> None:
        reply = await bus.call(GPUMAND, "Acquire", "sa{sv}", consumer, {"lifetime": Variant("s", "ttl")})
        await bus.call(GPUMAND, "Release", "s", reply.body[0])

    async def two_pings() -> None:
        await bus.ping(GPUMAND)
        await bus.ping(GPUMAND)

    async def inhibitor() -> None:
        # The lock lasts as long as its file descriptor. Closing it needs no reply, so that there is one round trip.
        reply = await bus.call(LOGIND, "Inhibit", "ssss", "idle", "gpumand", "benchmark", "block")
        for descriptor in reply.unix_fds:
            os.close(descriptor)

    async def inhibitor_and_ping() -> None:
        await inhibitor()
        await bus.ping(LOGIND)

    async def profile() -> None:
        reply = await bus.call(PROFILES, "HoldProfile", "sss", "power-saver", "benchmark", "gpumand")
        await bus.call(PROFILES, "ReleaseProfile", "u", reply.body[0])

    return {
        "gpumand: Acquire + Release": lease,
        "two Pings of gpumand": two_pings,
        "logind: Inhibit + close": inhibitor,
        "logind: Inhibit + close + one round trip": inhibitor_and_ping,
        "power-profiles-daemon: hold + release": profile,
    }


async def usable(pairs: dict[str, Pair]) -> dict[str, Pair]:
    """The pairs of calls that work here; a line on stderr for each other one. Exits if gpumand's does not work."""
    working = {}
    for name, pair in pairs.items():
        try:
            await pair()
            working[name] = pair
        except CallFailed as error:
            if not working:
                sys.exit(f"no lease: {error}. Load the consumer, and run this as root or in the group gpumand.")
            print(f"left out: {name}: {error}", file=sys.stderr)
    return working


async def measure(pair: Pair, callers: int) -> float:
    """Seconds for one pair of calls: the time of a round divided by its pairs."""

    async def repeat() -> None:
        for _ in range(PAIRS[callers] // callers):
            await pair()

    started = time.perf_counter()
    await asyncio.gather(*(repeat() for _ in range(callers)))
    return (time.perf_counter() - started) / PAIRS[callers]


async def run(consumer: str, rounds: int) -> None:
    """Measure everything in alternating rounds and print the medians."""
    bus = await MessageBus(bus_type=BusType.SYSTEM, negotiate_unix_fd=True).connect()
    pairs = await usable(pairs_of_calls(Bus(bus), consumer))
    seconds: dict[tuple[str, int], list[float]] = {(name, callers): [] for name in pairs for callers in CALLERS}
    for _ in range(rounds):
        for (name, callers), measured in seconds.items():
            measured.append(await measure(pairs[name], callers))
    bus.disconnect()
    print_table(list(pairs), seconds)


def print_table(names: list[str], seconds: dict[tuple[str, int], list[float]]) -> None:
    """Times and ratios: gpumand's time by that of the other, as the median of the rounds."""
    own = names[0]
    print(f"{'':42}" + "".join(f"{f'callers: {callers}':>12}{'gpumand is':>12}" for callers in CALLERS))
    for name in names:
        line = f"{name:42}"
        for callers in CALLERS:
            both = zip(seconds[own, callers], seconds[name, callers], strict=True)
            ratio = statistics.median(ours / theirs for ours, theirs in both)
            line += f"{statistics.median(seconds[name, callers]) * 1e6:9.0f} us{ratio:10.2f} x"
        print(line)


def main() -> None:
    """Read the command line and run."""
    flags = argparse.ArgumentParser(
        prog="python3 -m benchmarks.anchors", description=(__doc__ or "").partition("\n")[0]
    )
    flags.add_argument("consumer", help="a consumer of gpumand that is loaded and that you may acquire")
    flags.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of each measurement (default: %(default)s)")
    given = flags.parse_args()
    asyncio.run(run(given.consumer, given.rounds))


if __name__ == "__main__":
    main()
