"""How the cost of leases, of ``GetStatus``, of the start and of plans grows with the number of consumers.

Times of the daemon are its CPU time by the kernel's accounting, which depends less on other load on the host than wall
time does. Consumers are measured without and with a systemd unit and a health check each. Checks are made too seldom to
fall into the measured calls, whose cost is another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cpu_time import cpu_msec
from benchmarks.decisions import plan_once, view_of
from benchmarks.environment import RunningDaemon, announcement_folder, consumer_table, running_daemon
from benchmarks.instructions import QUIET
from benchmarks.table import Row, known_miss, median
from gpumand.domain.consumer import Policy
from gpumand.domain.view import View
from gpumand.testing.consumer_process import consumer_process

COUNTS = (10, 1000, 4000)
"""Numbers of configured consumers. One of them is resident, and is leased."""

LEASES, ROUNDS = 64, 12
STATUS_CALLS = 8
MAX_RATIO_AT_1000 = 1.2
MAX_STATUS_MSEC = {1000: 10.0, 4000: 40.0}
MAX_START_MSEC = 1000.0
KNOWN_START_MSEC = 3500.0
"""Up to which docs/performance.md documents that the goal is missed with a unit for each consumer."""

SETTLE_SEC, SETTLED_SHARE, POLL_SEC = 120.0, 0.1, 1.0
"""How long the daemon may take to watch all units after it is ready; it has ended when it uses less than this share."""

PLAN_COUNTS = (50, 1000)
MAX_PLAN_RATIO = 1.5


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of consumers.

    Attributes:
        title: what is appended to the names of the rows.
        keys: further keys of each consumer; ``{}`` stands for its name.
        has_units: whether the keys name units.
        known_start_msec: the documented limit of the start, if its goal is missed.
    """

    title: str
    keys: str = ""
    has_units: bool = False
    known_start_msec: float | None = None


SERVICE = 'unit = "{}.service"\nhealth = {{ path = "/health", loaded = "/loaded" }}\n'
KINDS = (Kind(""), Kind(" with units", SERVICE, has_units=True, known_start_msec=KNOWN_START_MSEC))


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU milliseconds of the daemon: in all until it was ready and until it was idle, and for each operation."""

    start_msec: float
    settled_msec: float
    lease_msec: float
    status_msec: float


async def measure(folder: Path) -> list[Row]:
    """Rows for leases, ``GetStatus`` and the start by number and kind of consumers, and for plans by policy."""
    rows: list[Row] = []
    for number, kind in enumerate(KINDS):
        rows += await _measure(folder / str(number), kind)
    return [*rows, *_plan_rows()]


async def _measure(folder: Path, kind: Kind) -> list[Row]:
    async with contextlib.AsyncExitStack() as stack:
        running: dict[int, tuple[RunningDaemon, float, float]] = {}
        for count in COUNTS:
            running[count] = await stack.enter_async_context(_daemon(folder / str(count), count, kind))
        costs = await _costs(running)
    start = _start_rows(costs[COUNTS[-1]], kind)
    return [*_lease_rows(costs, kind.title), *_status_rows(costs, kind.title), *start]


@contextlib.asynccontextmanager
async def _daemon(folder: Path, count: int, kind: Kind) -> AsyncIterator[tuple[RunningDaemon, float, float]]:
    """A daemon with this many consumers, and its CPU time until it was ready and until it was idle."""
    folder.mkdir(parents=True)  # noqa: ASYNC240  # in memory
    names = [f"c{number}" for number in range(count - 1)]
    units = [f"{name}.service" for name in names] if kind.has_units else []
    async with consumer_process("tts", 1024, announcement_folder(folder), "--loaded-at-start") as consumer:
        tables = consumer_table(consumer, 1024) + "".join(_other_consumer(name, kind) for name in names)
        async with running_daemon(folder, tables, QUIET, units=units) as running:
            start_msec = cpu_msec(running.pid)
            yield running, start_msec, await _settled_msec(running.pid)


async def _settled_msec(pid: int) -> float:
    """CPU of a daemon until it is idle: after its start it asks systemd to report changes of each unit."""
    async with asyncio.timeout(SETTLE_SEC):
        before, now = float("-inf"), cpu_msec(pid)
        while now - before > SETTLED_SHARE * POLL_SEC * 1000:
            await asyncio.sleep(POLL_SEC)
            before, now = now, cpu_msec(pid)
    return now


def _other_consumer(name: str, kind: Kind) -> str:
    route = 'url = "http://127.0.0.1:1"\nunload = { path = "/unload" }\n'
    return f"[consumers.{name}]\nvram_resident_mib = 1024\n{route}{kind.keys.format(name)}"


async def _costs(running: Mapping[int, tuple[RunningDaemon, float, float]]) -> dict[int, Cost]:
    """Measure the daemons in alternating rounds."""
    leases: dict[int, list[float]] = {count: [] for count in running}
    statuses: dict[int, list[float]] = {count: [] for count in running}
    for round_ in range(ROUNDS + 1):
        for count, (daemon, _, _) in running.items():
            lease_msec, status_msec = await _lease_msec(daemon), await _status_msec(daemon)
            if round_:  # the first one warms up
                leases[count].append(lease_msec)
                statuses[count].append(status_msec)
    return {
        count: Cost(start_msec, settled_msec, median(leases[count]), median(statuses[count]))
        for count, (_, start_msec, settled_msec) in running.items()
    }


async def _lease_msec(daemon: RunningDaemon) -> float:
    before = cpu_msec(daemon.pid)
    for _ in range(LEASES):
        await daemon.client.release(await daemon.client.acquire("tts"))
    return (cpu_msec(daemon.pid) - before) / LEASES


async def _status_msec(daemon: RunningDaemon) -> float:
    before = cpu_msec(daemon.pid)
    for _ in range(STATUS_CALLS):
        await daemon.client.call("GetStatus")
    return (cpu_msec(daemon.pid) - before) / STATUS_CALLS


def _lease_rows(costs: Mapping[int, Cost], title: str) -> list[Row]:
    few, least = COUNTS[0], costs[COUNTS[0]].lease_msec
    rows = []
    for count in COUNTS[1:]:
        ratio, has_goal = costs[count].lease_msec / least, count == 1000
        rows.append(
            Row(
                f"Acquire + Release, {count:,} consumers{title}, CPU",
                f"{costs[count].lease_msec:.2f} ms",
                f"{few} consumers: {least:.2f} ms",
                ratio,
                f"≤ {MAX_RATIO_AT_1000:g} times" if has_goal else "",
                ratio <= MAX_RATIO_AT_1000 if has_goal else None,
            )
        )
    return rows


def _status_rows(costs: Mapping[int, Cost], title: str) -> list[Row]:
    few, least = COUNTS[0], costs[COUNTS[0]].status_msec
    return [
        Row(
            f"GetStatus, {count:,} consumers{title}, CPU",
            f"{costs[count].status_msec:.1f} ms",
            f"{few} consumers: {least:.2f} ms",
            costs[count].status_msec / least,
            f"≤ {MAX_STATUS_MSEC[count]:g} ms",
            costs[count].status_msec <= MAX_STATUS_MSEC[count],
        )
        for count in COUNTS[1:]
    ]


def _start_rows(cost: Cost, kind: Kind) -> list[Row]:
    what = f"start with {COUNTS[-1]:,} consumers{kind.title}, CPU"
    ready = Row(
        what,
        f"{cost.start_msec:.0f} ms",
        goal=f"≤ {MAX_START_MSEC:.0f} ms",
        met=cost.start_msec <= MAX_START_MSEC,
        known_miss=known_miss(cost.start_msec, kind.known_start_msec, " ms"),
    )
    settled = Row(f"{what}, until all units are watched", f"{cost.settled_msec:.0f} ms")
    return [ready, settled] if kind.has_units else [ready]


def _plan_rows() -> list[Row]:
    return [_plan_row(count) for count in PLAN_COUNTS]


def _plan_row(count: int) -> Row:
    views = [view_of(policy, count) for policy in (Policy.LRU, Policy.ADAPTIVE)]
    rounds = [[_plan_msec(view) for view in views] for _ in range(9)]
    lru_msec, adaptive_msec = (median(list(took)) for took in zip(*rounds, strict=True))
    ratio = median([adaptive / lru for lru, adaptive in rounds])
    return Row(
        f"a plan with evictions, {count:,} consumers, adaptive",
        f"{adaptive_msec:.2f} ms",
        f"lru: {lru_msec:.2f} ms",
        ratio,
        f"≤ {MAX_PLAN_RATIO:g} times",
        ratio <= MAX_PLAN_RATIO,
    )


def _plan_msec(view: View) -> float:
    repeats = max(3, 500 // len(view.consumers))
    started = time.process_time()
    for _ in range(repeats):
        plan_once(view)
    return (time.process_time() - started) / repeats * 1e3
