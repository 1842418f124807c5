"""A plan over a thousand consumers: the decision alone, and the call of Plan over D-Bus."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from benchmarks.environment import TOTAL_MIB, announcement_folder, running_daemon, unwrap
from benchmarks.table import Row, median
from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, Route, SchedulerSettings
from gpumand.domain.decision import Requirement
from gpumand.domain.device import ProcessUse, Sample
from gpumand.domain.planning import decide
from gpumand.domain.request import Verdict
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState, View
from gpumand.testing.vram_announcement import Announcement

CONSUMERS = 1000
RESIDENT = 23
RUNS = 200


async def measure(folder: Path) -> list[Row]:
    """One row for the decision alone, one for the D-Bus call."""
    alone_sec = _domain()
    async with _residents(folder), running_daemon(folder, _tables(), "max_evictions = 100") as running:
        call = ("Plan", "sa{sv}", ["c999", {}])
        plan = unwrap(await running.client.call(*call))[0]
        pings, plans = [], []
        for _ in range(RUNS // 4):
            pings.append(await _timed(running.client.ping()))
            plans.append(await _timed(running.client.call(*call)))
    evictions = len(plan.get("evictions", plan.get("evicted", [])))
    ping_msec, plan_msec = median(pings) * 1e3, median(plans) * 1e3
    return [
        Row(f"a plan over {CONSUMERS:,} resident consumers, domain alone", f"{alone_sec * 1e3:.2f} ms"),
        Row(
            f"Plan over the bus, {CONSUMERS:,} consumers, {RESIDENT} resident, {evictions} evicted",
            f"{plan_msec:.2f} ms",
            f"Peer.Ping: {ping_msec:.2f} ms",
            plan_msec / ping_msec,
        ),
    ]


def _domain() -> float:
    """Seconds of one decision: every resident consumer but the target is a candidate."""
    view, requirement = _view(), Requirement("c999")
    decision = decide(view, requirement)
    if decision.verdict is not Verdict.GRANT or not decision.evictions:
        raise RuntimeError(f"the plan has no evictions: {decision.message}")
    took = []
    for _ in range(RUNS // 4):
        started = time.perf_counter()
        decide(view, requirement)
        took.append(time.perf_counter() - started)
    return median(took)


def _view() -> View:
    names = [f"c{number}" for number in range(CONSUMERS)]
    processes = tuple(ProcessUse(1000 + number, 20, name, "", name) for number, name in enumerate(names[:-1]))
    used_mib = 20 * len(processes)
    device = Sample(
        0, "SIM-0", "GPU", "simulated", TOTAL_MIB, used_mib, TOTAL_MIB - used_mib, processes, True, frozenset(names)
    )
    states = {
        name: ConsumerState(
            _spec(name, 20), residency=Residency.RESIDENT, devices=(0,), lease_ended_usec=1_700_000_000_000_000 + number
        )
        for number, name in enumerate(names[:-1])
    }
    target = ConsumerState(_spec(names[-1], 6000), residency=Residency.UNLOADED)
    return View(SchedulerSettings(max_evictions=CONSUMERS), {0: device}, {**states, names[-1]: target})


def _spec(name: str, mib: int) -> ConsumerSpec:
    unload = Route("/unload")
    return ConsumerSpec(name, mib, url="http://127.0.0.1:1", unload=unload, evict=(EvictionMethod.HTTP,))


def _tables() -> str:
    """The configuration; without health routes, so that planning is measured and not a thousand probes."""
    route = 'url = "http://127.0.0.1:1"\nunload = { path = "/unload" }\n'
    return "".join(f"[consumers.c{number}]\nvram_resident_mib = 1024\n{route}" for number in range(CONSUMERS))


@contextlib.asynccontextmanager
async def _residents(folder: Path) -> AsyncIterator[None]:
    """Run processes that hold memory for some of the consumers, so many that they fill the device."""
    sleeper = [sys.executable, "-c", "import time; time.sleep(3600)"]
    processes = [await asyncio.create_subprocess_exec(*sleeper) for _ in range(RESIDENT)]
    try:
        for number, process in enumerate(processes):
            Announcement(announcement_folder(folder), f"c{number}", pid=process.pid).set(1024)
        yield
    finally:
        for process in processes:
            process.kill()
            await process.wait()


async def _timed(operation: object) -> float:
    started = time.perf_counter()
    await operation  # type: ignore[misc]  # any awaitable
    return time.perf_counter() - started
