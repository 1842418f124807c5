"""Faults and what must be true during and after them; the tests add the limits of time."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from tests.fleet.lab import HOSTS, TTL_SEC, UNIQUE_NAME, Lab
from tests.integration.fleet.fleet_hosts import LocalStream, until_async

T = TypeVar("T")


class Stopwatch:
    """Seconds since its creation."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began


@dataclass(frozen=True)
class Cut:
    """What a cut host looked like from outside.

    Attributes:
        lost_sec: until the client of a remote lease knew that it was lost.
        gone_sec: until the other hosts had no row of the host any more.
        local_sec: how long a new lease of the host's own gpumand took meanwhile.
        back_sec: until all hosts were up again after the cut was healed.
    """

    lost_sec: float
    gone_sec: float
    local_sec: float
    back_sec: float


async def ended(stream: LocalStream, seconds: float = 60.0) -> str:
    """Wait for the last line of a lease; returns the reason of its end."""
    async with asyncio.timeout(seconds):
        return str((await stream.line()).get("ended", ""))


async def cut_off(lab: Lab, host: int, other: int) -> Cut:
    """Cut a host that has a lease of its own users and one that came through the router of another host."""
    remote = await lab.acquire(other, "chat", on=f"gpu{host}")
    local = await lab.acquire(host, "chat", on=f"gpu{host}")
    await lab.until_leases(host, 2)
    lab.network.cut(host)
    watch = Stopwatch()
    try:
        assert await ended(remote) == "host-lost"
        lost_sec = watch.seconds
        elsewhere = await lab.acquire(other, "chat")
        assert elsewhere.grant["host"] != f"gpu{host}"
        await until_async(lambda: is_gone(lab, host, other), f"gpu{host} is gone for the others")
        gone_sec = watch.seconds
        await lab.until_leases(host, 1)  # the host has ended the remote lease too, and the local one stands
        local_sec = await lab.local_lease_sec(host)
    finally:
        lab.network.heal(host)
    watch = Stopwatch()
    await lab.until_all_up()
    back_sec = watch.seconds
    assert await lab.leases(host) == 1
    for stream in (local, elsewhere):
        stream.close()
    return Cut(lost_sec, gone_sec, local_sec, back_sec)


async def is_gone(lab: Lab, host: int, other: int) -> bool:
    """Whether a host has no row in the table of another."""
    return f"gpu{host}" not in await lab.hosts(other)


async def epochs(lab: Lab, at: int) -> dict[str, int]:
    """Epoch of the row of each host."""
    found = await lab.clients[at].get("/v1/hosts")
    return {one["row"]["name"]: one["row"]["epoch"] for one in found["hosts"]}


@dataclass(frozen=True)
class KilledLeader:
    """Seconds until another member led, and for which a new lease of a host's own gpumand took meanwhile."""

    led_sec: float
    local_sec: float


async def kill_leader(lab: Lab, watch_sec: float) -> KilledLeader:
    """Kill the member of etcd that leads; no lease ends and no host has to join again.

    Args:
        lab: the hosts.
        watch_sec: how long to look for hosts that join again once there is another leader.
    """
    leader = lab.leader()
    first, second = lab.followers()
    running = await lab.acquire(first, "chat", on=f"gpu{second}")
    before = await epochs(lab, first)
    lab.members[leader].kill()
    watch = Stopwatch()

    async def serve() -> KilledLeader:
        local_sec = await lab.local_lease_sec(leader)
        await until_async(lambda: _has_another_leader(lab, leader), "another member leads")
        led_sec = watch.seconds
        stream = await lab.acquire(leader, "image")
        stream.close()
        await asyncio.sleep(watch_sec)
        return KilledLeader(led_sec, local_sec)

    killed = await alive_during(lab, running, serve())
    assert await epochs(lab, first) == before, "no host has joined again"
    running.close()
    lab.members[leader].start()
    await lab.until_all_up()
    return killed


async def _has_another_leader(lab: Lab, former: int) -> bool:
    return await asyncio.to_thread(lab.leader_now) not in (0, former)


@dataclass(frozen=True)
class KilledAgent:
    """Seconds after an agent was killed until its clients knew it, and until its gpumand had none of its leases."""

    known_sec: float
    free_sec: float


async def kill_agent(lab: Lab) -> KilledAgent:
    """Kill the agent of gpu2 that serves leases of gpu1, and start it again when its row has ended."""
    leases = [await lab.acquire(1, "chat", on="gpu2") for _ in range(3)]
    before = (await epochs(lab, 1))["gpu2"]
    lab.agents[2].kill(signal.SIGKILL)
    watch = Stopwatch()
    assert [await ended(one) for one in leases] == ["host-lost"] * 3
    known_sec = watch.seconds
    await lab.until_leases(2, 0)
    free_sec = watch.seconds
    await until_async(lambda: is_gone(lab, 2, 1), "the row of the killed agent has ended")
    await lab.restart_agents(2)
    await until_async(lambda: _has_epoch_above(lab, before), "the row is that of the new agent")
    return KilledAgent(known_sec, free_sec)


async def _has_epoch_above(lab: Lab, before: int) -> bool:
    return (await epochs(lab, 1)).get("gpu2", 0) > before


async def kill_router(lab: Lab) -> float:
    """Kill the router of gpu1 with leases and a waiting request on gpu2; return the seconds until gpu2 has none."""
    for _ in range(3):
        await lab.acquire(1, "chat", on="gpu2")
    waiting = asyncio.ensure_future(lab.clients[1].acquire("image", on="gpu2", wait_sec=60))
    await lab.until_leases(2, 3)
    lab.agents[1].kill(signal.SIGKILL)
    watch = Stopwatch()
    await lab.until_leases(2, 0)
    free_sec = watch.seconds
    await asyncio.gather(waiting, return_exceptions=True)

    async def has_no_intents() -> bool:
        return not (await lab.clients[3].get("/v1/hosts"))["intents"]

    await until_async(has_no_intents, "the intents of the killed router have ended")
    stream = await lab.acquire(3, "image")
    stream.close()
    return free_sec


async def lose_quorum(lab: Lab) -> None:
    """Kill two of three members, and start them again after longer than any lease of etcd lasts."""
    running = await lab.acquire(1, "chat", on="gpu2")
    unique = await acquire_unique(lab, 1)
    lab.members[2].kill()
    lab.members[3].kill()
    await until_async(lambda: lab.degraded(1), "the router of gpu1 knows that it has no store")
    await alive_during(lab, running, _lose_unique(lab, unique))
    await alive_during(lab, running, _serve_without_store(lab))
    assert await _unique_hosts(lab) == [], "no host loads it while no host can claim it"
    lab.members[2].start()
    lab.members[3].start()
    await alive_during(lab, running, lab.until_all_up())
    moved = await acquire_unique(lab, 3)
    assert await _unique_hosts(lab) == [3]
    moved.close()
    running.close()
    await lab.until_leases(2, 0)


async def _lose_unique(lab: Lab, held: LocalStream) -> None:
    """The fence ends the lease on gpu1, its gpumand unloads the consumer, and no host serves it without the store."""
    assert await ended(held) == "fenced"
    await lab.until_unloaded(1, UNIQUE_NAME)
    for host in HOSTS:
        refused = await lab.clients[host].acquire(UNIQUE_NAME, on=f"gpu{host}", wait_sec=5)
        assert "host" not in refused.grant, refused.grant
        assert "one host only" in refused.grant["message"], refused.grant
        refused.close()


async def _unique_hosts(lab: Lab) -> list[int]:
    """The hosts that have the unique consumer loaded, as their own gpumands report it."""
    return [host for host in HOSTS if await lab.residency(host, UNIQUE_NAME) != "unloaded"]


async def alive_during(lab: Lab, running: LocalStream, work: Awaitable[T]) -> T:
    """Assert that a lease outlives some work, here and on its host; return the result of the work."""
    host = int(str(running.grant["host"]).removeprefix("gpu"))
    lease = asyncio.ensure_future(running.line())
    try:
        result = await work
        assert not lease.done(), f"the lease ended: {lease.result()}"
        assert await lab.leases(host) >= 1
        return result
    finally:
        lease.cancel()
        await asyncio.gather(lease, return_exceptions=True)


async def _serve_without_store(lab: Lab) -> None:
    """Requests are served from the last table, which stays fresh, for longer than a lease of etcd lasts."""
    watch, before = Stopwatch(), await _seq(lab, 2)
    while watch.seconds < 2 * TTL_SEC:
        for consumer in ("chat", "image"):
            stream = await lab.acquire(1, consumer)
            stream.close()
        await asyncio.sleep(0.5)
    assert set(await lab.hosts(1)) == {"gpu1", "gpu2", "gpu3"}, "the last table is kept"
    assert await _seq(lab, 2) > before, "agents ask each other for their rows"


async def _seq(lab: Lab, host: int) -> int:
    """The number of the newest row of a host that gpu1 knows."""
    found = (await lab.clients[1].get("/v1/hosts"))["hosts"]
    return next(int(one["row"]["seq"]) for one in found if one["row"]["name"] == f"gpu{host}")


@dataclass(frozen=True)
class Fall:
    """What happened to a unique consumer whose host was cut off, in seconds after the cut.

    Attributes:
        fence_sec: until the fence fell.
        taken_sec: until another host had the consumer.
        unloaded_sec: until gpumand of the cut host had unloaded it.
    """

    fence_sec: float
    taken_sec: float
    unloaded_sec: float

    @property
    def margin_sec(self) -> float:
        """Seconds in which no host had the consumer."""
        return self.taken_sec - self.fence_sec


async def take_over(lab: Lab, holder: int, other: int, stop: Callable[[], None]) -> Fall:
    """Stop a host that holds the unique consumer, while another host asks for it all the time.

    Args:
        lab: the hosts.
        holder: the host that holds the consumer.
        other: the host that takes it over.
        stop: takes the holder away.
    """
    held = await acquire_unique(lab, holder)  # an earlier host gives it up when it has unloaded it
    stop()
    watch = Stopwatch()
    fenced = asyncio.create_task(_seconds_until_fenced(held, watch))
    unloaded = asyncio.create_task(_seconds_until_unloaded(lab, holder, watch))
    try:
        stream = await acquire_unique(lab, other)
        fall = Fall(taken_sec=watch.seconds, fence_sec=await fenced, unloaded_sec=await unloaded)
        assert await _unique_hosts(lab) == [other]
        stream.close()
        return fall
    finally:
        fenced.cancel()
        unloaded.cancel()


async def _seconds_until_unloaded(lab: Lab, holder: int, watch: Stopwatch) -> float:
    """The holder unloads by its fence: it has no connection to the store and to other hosts meanwhile."""
    await lab.until_unloaded(holder, UNIQUE_NAME)
    return watch.seconds


async def _seconds_until_fenced(held: LocalStream, watch: Stopwatch) -> float:
    assert await ended(held) == "fenced"
    return watch.seconds


async def acquire_unique(lab: Lab, other: int) -> LocalStream:
    """Ask a host for the unique consumer until it has it."""
    async with asyncio.timeout(60):
        while True:
            stream = await lab.clients[other].acquire(UNIQUE_NAME, on=f"gpu{other}", wait_sec=5)
            if "host" in stream.grant:
                return stream
            stream.close()
            await asyncio.sleep(0.1)


async def suspend(lab: Lab, host: int, other: int) -> None:
    """Suspend a host that holds the unique consumer, let another host take it, and resume the host."""
    held = await acquire_unique(lab, host)
    lab.signal_host(host, signal.SIGSTOP)
    try:
        await until_async(lambda: is_gone(lab, host, other), "the row of the sleeping host has ended")
        taken = await acquire_unique(lab, other)
    finally:
        lab.resume_host(host, slept_sec=3600.0)
    refused = await lab.clients[host].acquire(UNIQUE_NAME, on=f"gpu{host}", wait_sec=5)
    assert "host" not in refused.grant, refused.grant
    assert await ended(held) == "fenced"
    await lab.until_unloaded(host, UNIQUE_NAME)
    assert await _unique_hosts(lab) == [other]
    await lab.until_all_up()
    taken.close()
