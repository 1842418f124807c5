"""Acquire and Release of a resident consumer while 500 requests wait for other consumers, and what they cost.

The first half of the requests is counted by itself too: all of them may cost little more than twice as much, since each
one should cost the same. Two daemons are measured in alternating rounds, one with an empty queue and one with the
waiting requests, so that other work on the host slows both down alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dbus_fast import Variant
from dbus_fast.aio import MessageBus

from benchmarks.cpu_time import cpu_msec
from benchmarks.environment import (
    CallFailed,
    Client,
    RunningDaemon,
    announcement_folder,
    consumer_table,
    running_daemon,
    unwrap,
)
from benchmarks.idle import resident_mib
from benchmarks.table import Row, median, percentile
from gpumand.testing.consumer_process import consumer_process

WAITING = 500
CONNECTIONS = 20
CALLS, ROUNDS = 100, 12
SETTLE_SEC, POLL_SEC = 60.0, 0.2
WAIT_USEC = 600_000_000
GOAL_RATIO, GOAL_FILL_MSEC = 2.0, 300.0
GOAL_FILL_RATIO = 2.5
"""How many times as much as the first half all requests may cost that begin to wait; 2 = each costs the same."""

HELD_MIB, WANTED_MIB = 14000, 9400
ROUTES = 'url = "http://127.0.0.1:1"\nload = { path = "/load" }\nunload = { path = "/unload" }\n'
SCHEDULERS = ("lru", "adaptive")
WANTED = {"alike": ("wanted",), "mixed": tuple(f"wanted{number}" for number in range(10))}
"""The consumers for which requests wait: one, all with the same priority, or ten, with different priorities.

Ten would not fit together, so that a request for the resident consumer is served before them by its priority only.
"""

PRIORITY = {"alike": 0, "mixed": 100}


@dataclass(slots=True)
class Leases:
    """Leases of the resident consumer, measured in rounds.

    Attributes:
        seconds: how long each Acquire took.
        all_seconds: how long all of them took with their Releases.
        cpu_msec: CPU of the daemon for an Acquire with its Release, by round.
    """

    seconds: list[float] = field(default_factory=list)
    all_seconds: float = 0.0
    cpu_msec: list[float] = field(default_factory=list)


async def measure(folder: Path) -> list[Row]:
    """Rows for each policy and kind of queue."""
    rows: list[Row] = []
    for policy in SCHEDULERS:
        for kind in WANTED:
            (where := folder / policy / kind).mkdir(parents=True)
            rows += await _measure(where, policy, kind)
    return rows


async def _measure(folder: Path, policy: str, kind: str) -> list[Row]:
    async with contextlib.AsyncExitStack() as stack:
        empty, crowded = [
            await stack.enter_async_context(daemon_with_held_memory(folder / name, policy, kind))
            for name in ("empty", "crowded")
        ]
        before_mib = resident_mib(crowded.pid)
        fill = await stack.enter_async_context(waiting_requests(crowded, WANTED[kind]))
        leases = {empty.pid: Leases(), crowded.pid: Leases()}
        for round_ in range(ROUNDS + 1):
            for running in (empty, crowded):
                await _measure_leases(running, kind, leases[running.pid] if round_ else Leases())  # the first warms up
        grown_mib = resident_mib(crowded.pid) - before_mib
    title = f"{policy}, {kind}"
    rows = _rows(title, leases[empty.pid], leases[crowded.pid], grown_mib)
    return [
        *rows,
        *_cpu_rows(title, leases[empty.pid].cpu_msec, leases[crowded.pid].cpu_msec),
        *_fill_rows(title, *fill),
    ]


@contextlib.asynccontextmanager
async def daemon_with_held_memory(folder: Path, policy: str, kind: str) -> AsyncIterator[RunningDaemon]:
    """A daemon with a resident consumer, and one whose lease keeps the memory for which requests may wait."""
    folder.mkdir()  # noqa: ASYNC240  # in memory
    where = announcement_folder(folder)
    async with (
        consumer_process("tts", 1024, where, "--loaded-at-start") as tts,
        consumer_process("held", HELD_MIB, where) as held,
    ):
        # tts is pinned, and all fit but for the cushion: the waiting requests do not need its VRAM, so that requests
        # for it may be served before them.
        tables = consumer_table(tts, 1024) + "pinned = true\n" + consumer_table(held, HELD_MIB)
        tables += "".join(f"[consumers.{name}]\nvram_resident_mib = {WANTED_MIB}\n{ROUTES}" for name in WANTED[kind])
        lines = f'concurrent_leases = 0\npolicy = "{policy}"'
        async with running_daemon(folder, tables, lines) as running:
            await running.client.acquire("held", timeout_usec=Variant("t", WAIT_USEC))
            yield running


async def _measure_leases(running: RunningDaemon, kind: str, leases: Leases) -> None:
    before, started = cpu_msec(running.pid), time.perf_counter()
    took = await _acquire_seconds(running.client, PRIORITY[kind])
    leases.all_seconds += time.perf_counter() - started
    leases.seconds += took
    leases.cpu_msec.append((cpu_msec(running.pid) - before) / len(took))


def _cpu_rows(policy: str, empty: list[float], crowded: list[float]) -> list[Row]:
    idle_msec, crowded_msec = median(empty), median(crowded)
    ratio = median([more / less for less, more in zip(empty, crowded, strict=True)])
    return [
        Row(
            f"Acquire + Release, resident, {WAITING} waiting ({policy}), CPU",
            f"{crowded_msec:.2f} ms",
            f"empty queue: {idle_msec:.2f} ms",
            ratio,
            f"≤ {GOAL_RATIO:g}",
            ratio <= GOAL_RATIO,
        ),
    ]


def _fill_rows(policy: str, half_msec: float, fill_msec: float) -> list[Row]:
    """Rows for the CPU of the first half of the requests, and of all of them."""
    ratio, what = fill_msec / half_msec, f"{WAITING} requests that begin to wait ({policy}), CPU"
    all_ = f"{fill_msec:.0f} ms"
    return [
        Row(what, all_, goal=f"≤ {GOAL_FILL_MSEC:g} ms", met=fill_msec <= GOAL_FILL_MSEC),
        Row(
            f"{what}, growth",
            all_,
            f"{WAITING // 2} of them: {half_msec:.0f} ms",
            ratio,
            f"≤ {GOAL_FILL_RATIO:g}",
            ratio <= GOAL_FILL_RATIO,
        ),
    ]


@contextlib.asynccontextmanager
async def waiting_requests(
    running: RunningDaemon, names: Sequence[str], total: int = WAITING
) -> AsyncIterator[tuple[float, float]]:
    """Keep requests in the queue; yields the CPU milliseconds for the first half of them, and for all."""
    buses = [await MessageBus(bus_address=running.address).connect() for _ in range(CONNECTIONS)]
    waiting: list[asyncio.Task[None]] = []
    before_msec = cpu_msec(running.pid)
    try:
        took = []
        for count in (total // 2, total):
            for number in range(len(waiting), count):
                client = Client(buses[number % CONNECTIONS])
                waiting.append(asyncio.create_task(_acquire_and_wait(client, names, number)))
            async with asyncio.timeout(SETTLE_SEC):
                await _wait_until_queued(running.client, count)
            took.append(cpu_msec(running.pid) - before_msec)
        yield took[0], took[1]
    finally:
        for task in waiting:
            task.cancel()
        for bus in buses:
            bus.disconnect()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _acquire_and_wait(client: Client, names: Sequence[str], number: int) -> None:
    priority = number % 41 - 20 if len(names) > 1 else 0
    options = {"timeout_usec": Variant("t", WAIT_USEC), "priority": Variant("i", priority)}
    with contextlib.suppress(CallFailed):
        await client.acquire(names[number % len(names)], **options)


async def _wait_until_queued(client: Client, count: int) -> None:
    """Return once this many requests are in the queue."""
    while await _queue_length(client) < count:  # noqa: ASYNC110  # the daemon sends no signal for it
        await asyncio.sleep(POLL_SEC)


async def _queue_length(client: Client) -> int:
    (status,) = await client.call("GetStatus")
    return len(unwrap(status)["queue"])


async def _acquire_seconds(client: Client, priority: int) -> list[float]:
    """Seconds of each Acquire of the resident consumer; each lease is released again."""
    took: list[float] = []
    for _ in range(CALLS):
        started = time.perf_counter()
        lease = await client.acquire("tts", priority=Variant("i", priority))
        took.append(time.perf_counter() - started)
        await client.release(lease)
    return took


def _rows(policy: str, empty: Leases, crowded: Leases, grown_mib: float) -> list[Row]:
    def row(percent: int) -> Row:
        ours, yardstick = percentile(crowded.seconds, percent) * 1e3, percentile(empty.seconds, percent) * 1e3
        what = f"Acquire, resident, {WAITING} waiting ({policy}) p{percent}"
        return Row(what, f"{ours:.1f} ms", f"empty queue: {yardstick:.2f} ms", ours / yardstick)

    per_sec = len(crowded.seconds) / crowded.all_seconds
    grants = Row(f"Grants by one caller, {WAITING} waiting ({policy})", f"{per_sec:.0f} / s")
    return [row(50), row(99), grants, Row(f"Memory for {WAITING} waiting ({policy})", f"{grown_mib:.1f} MiB")]
