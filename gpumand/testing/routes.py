"""An in-memory implementation of ConsumerRoutes with simulated consumers, whose behaviour the test sets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

from gpumand.domain.consumer import BusyReport, ConsumerSpec, Health, Route
from gpumand.domain.partial_load import PartialLoad
from gpumand.ports import Clock, RouteFailed


class VramHolder(Protocol):
    """The part of FakeVram that FakeRoutes needs."""

    def hold(self, pid: int, mib: int | None, *, device: int = 0, consumer: str = "", name: str = "") -> None:
        """Set the memory that a process holds."""

    def release(self, pid: int, *, device: int | None = None) -> None:
        """Release the memory of a process."""


@dataclass(slots=True)
class FakeConsumer:
    """One simulated consumer; a test may change any field at any time.

    Attributes:
        name: configured name.
        pid: the process that holds its memory.
        mib: VRAM of its model; None = its configured footprint.
        device: the device that it loads to.
        also_on: further devices that it loads to at the same time, with the same amount on each.
        running: False = connections are refused.
        loaded: the model is in VRAM.
        held_mib: MiB that it holds.
        load_sec, unload_sec: duration of a load and of an unload; memory grows in ``load_steps`` equal steps.
        early_load, early_unload: answer at once and do the work afterwards.
        residual_mib: VRAM that stays in use after an unload.
        parks_mib: host RAM that an unload occupies until the next load, or until the process ends.
        host_mib: host RAM that it holds now.
        lies: an unload answers with 200 and frees nothing.
        hangs: load, unload and probes are never answered.
        load_error, unload_error: error that is answered instead of doing the work; "" = none.
        load_error_status: HTTP status of ``load_error``.
        load_breaks: error with which a load ends after it has taken its memory, which then stays in use; "" = none.
        replaces_after_sec: a load answers at once; this many seconds later the process closes its port, which stays
            closed for ``load_sec`` until the model is loaded; 0 = it is not so.
        health_status: HTTP status with which health probes are refused; 0 = they are answered.
        failed: reason of a failed load that health probes report; "" = none.
        sleeping: health probes report the model as asleep; a busy probe with a path wakes it.
        partial: how much of the model is in VRAM by the health probes of a loaded consumer; None = all.
        says_loading: health probes report that a load is running.
        loading: a load is running.
        says_loaded: the state that health probes report: "truth", or a fixed value.
        says_last_used: whether health probes report the time of last use.
        last_used_usec: CLOCK_REALTIME microseconds of the last use; None = never.
        jobs: number of jobs that the busy route reports; None = it does not answer.
        ooms: number of loads that did not fit the device.
    """

    name: str
    pid: int
    mib: int | None = None
    device: int = 0
    also_on: tuple[int, ...] = ()
    running: bool = True
    loaded: bool = False
    held_mib: int = 0
    load_sec: float = 2.0
    load_steps: int = 1
    unload_sec: float = 0.5
    early_load: bool = False
    early_unload: bool = False
    residual_mib: int = 0
    parks_mib: int = 0
    host_mib: int = 0
    lies: bool = False
    hangs: bool = False
    load_error: str = ""
    unload_error: str = ""
    load_error_status: int = 500
    load_breaks: str = ""
    replaces_after_sec: float = 0.0
    health_status: int = 0
    failed: str = ""
    sleeping: bool = False
    partial: PartialLoad | None = None
    says_loading: bool = False
    loading: bool = False
    says_loaded: bool | str | None = "truth"
    says_last_used: bool = False
    last_used_usec: int | None = None
    jobs: int | None = 0
    ooms: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """One received call; ``at`` is in seconds of the monotonic clock."""

    at: float
    verb: str
    consumer: str


@dataclass(slots=True)
class FakeRoutes:
    """A ConsumerRoutes with simulated consumers, which are created when they are first named.

    Attributes:
        clock: the clock of all delays.
        vram: the source in which consumers hold memory; None = none.
        device_mib: size of each device, to detect loads that do not fit; empty = not checked.
        calls: load, unload and probe calls, in order of arrival.
        consumers: consumers by name; use ``consumer``.
        where: returns the devices for each load of a consumer; None = those set in the consumer.
    """

    clock: Clock
    vram: VramHolder | None = None
    device_mib: Mapping[int, int] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    consumers: dict[str, FakeConsumer] = field(default_factory=dict)
    where: Callable[[str], tuple[int, ...]] | None = None
    closed: bool = False
    _pids: count[int] = field(default_factory=lambda: count(10_001))
    _work: set[asyncio.Task[None]] = field(default_factory=set)

    def consumer(self, name: str) -> FakeConsumer:
        """Return the consumer of this name, which the test may inspect and change."""
        if name not in self.consumers:
            self.consumers[name] = FakeConsumer(name, next(self._pids))
        return self.consumers[name]

    def called(self, verb: str) -> list[str]:
        """Return the names of the consumers that got this call, in order."""
        return [call.consumer for call in self.calls if call.verb == verb]

    def place(self, name: str, mib: int, *, last_used_usec: int | None = None, device: int = 0) -> FakeConsumer:
        """Set a consumer to loaded, with this many MiB."""
        consumer = self.consumer(name)
        consumer.mib, consumer.device, consumer.last_used_usec = mib, device, last_used_usec
        self._hold(consumer, mib)
        consumer.loaded = True
        return consumer

    async def work(self, spec: ConsumerSpec, seconds: float = 0.0) -> None:
        """Simulate a client's request: load if necessary, work, and record the time of last use. Raises RouteFailed."""
        consumer = self.consumer(spec.name)
        if not consumer.loaded:
            await self._load(consumer, spec)
        await self.clock.sleep(seconds)
        consumer.last_used_usec = self.clock.realtime_usec()

    def die(self, name: str) -> None:
        """End the process of a consumer: its memory is free, connections are refused, and its work fails."""
        consumer = self.consumer(name)
        consumer.running = consumer.loaded = False
        consumer.host_mib = 0
        self._hold(consumer, 0)

    async def load(self, spec: ConsumerSpec) -> None:
        """See ConsumerRoutes."""
        consumer = self._arrive(spec, "load")
        is_early = consumer.early_load or consumer.replaces_after_sec > 0
        await self._serve(consumer, spec.load, self._load(consumer, spec), is_early)

    async def unload(self, spec: ConsumerSpec) -> None:
        """See ConsumerRoutes."""
        consumer = self._arrive(spec, "unload")
        await self._serve(consumer, spec.unload, self._unload(consumer), consumer.early_unload)

    async def probe_health(self, spec: ConsumerSpec) -> Health:
        """See ConsumerRoutes."""
        consumer = self._arrive(spec, "probe_health")
        if not consumer.running:
            return Health(reachable=False, refused=True, error="nothing listens there (connection refused)")
        if consumer.hangs:
            await self.clock.sleep(spec.health.timeout_sec if spec.health else 5.0)
            return Health(reachable=False, error="no answer in time")
        if consumer.health_status:
            error = f"health route answered {consumer.health_status}"
            return Health(reachable=False, error=error, status=consumer.health_status)
        says = consumer.says_loaded
        loaded = says if isinstance(says, bool) else (consumer.loaded if says == "truth" else None)
        used = consumer.last_used_usec if consumer.says_last_used else None
        return Health(
            reachable=True,
            loaded=False if consumer.sleeping else loaded,
            last_used_usec=used,
            status=200,
            failed=consumer.failed,
            loading=consumer.says_loading and consumer.loading,
            sleeping=consumer.sleeping,
            partial=consumer.partial if consumer.loaded else None,
        )

    async def probe_busy(self, spec: ConsumerSpec) -> BusyReport:
        """See ConsumerRoutes."""
        consumer = self._arrive(spec, "probe_busy")
        if not consumer.running:
            return BusyReport(None, refused=True, error="nothing listens there (connection refused)")
        if spec.busy is not None and spec.busy.path:
            consumer.sleeping = False
        if consumer.hangs or consumer.jobs is None:
            await self.clock.sleep(spec.busy.timeout_sec if spec.busy else 2.0)
            return BusyReport(None, error="no answer in time")
        return BusyReport(consumer.jobs)

    async def close(self) -> None:
        """See ConsumerRoutes; cancels work that continues after early answers."""
        self.closed = True
        work = list(self._work)
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)

    def _arrive(self, spec: ConsumerSpec, verb: str) -> FakeConsumer:
        self.calls.append(Call(self.clock.monotonic(), verb, spec.name))
        return self.consumer(spec.name)

    async def _serve(
        self, consumer: FakeConsumer, route: Route | None, work: Coroutine[Any, Any, None], is_early: bool
    ) -> None:
        """Run the work and wait for it; as in a real server, it continues if the caller times out or is cancelled."""
        task = asyncio.create_task(self._hang(work) if consumer.hangs else work)
        self._work.add(task)
        task.add_done_callback(self._finished)
        if is_early and consumer.running and not consumer.hangs:
            return
        timeout_sec = route.timeout_sec if route else 30.0
        limit = asyncio.create_task(self.clock.sleep(timeout_sec))
        try:
            done, _ = await asyncio.wait({task, limit}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            limit.cancel()
        if task not in done:
            raise RouteFailed(f"no answer within {timeout_sec:g} s")
        task.result()

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled():
            # Marks the exception as retrieved: after an early answer or a timeout no caller does so.
            task.exception()

    async def _hang(self, work: Coroutine[Any, Any, None]) -> None:
        work.close()
        await self.clock.sleep(float("inf"))

    async def _load(self, consumer: FakeConsumer, spec: ConsumerSpec) -> None:
        self._refuse(consumer, consumer.load_error, consumer.load_error_status)
        consumer.failed = ""
        if consumer.replaces_after_sec:
            await self._replace(consumer)
        if self.where is not None and not consumer.held_mib:
            consumer.device, *more = self.where(consumer.name)
            consumer.also_on = tuple(more)
        consumer.loading = True
        try:
            await self._take_memory(consumer, spec)
        finally:
            consumer.loading = False
        consumer.loaded, consumer.host_mib, consumer.running = True, 0, True

    async def _take_memory(self, consumer: FakeConsumer, spec: ConsumerSpec) -> None:
        mib = consumer.mib if consumer.mib is not None else spec.vram_resident_mib
        for step in range(1, consumer.load_steps + 1):
            await self.clock.sleep(consumer.load_sec / consumer.load_steps)
            if not consumer.replaces_after_sec:
                self._refuse(consumer, "")
            self._fit(consumer, step_mib := mib * step // consumer.load_steps)
            self._hold(consumer, max(step_mib, consumer.held_mib))
        if consumer.load_breaks:
            self._refuse(consumer, consumer.load_breaks)

    async def _replace(self, consumer: FakeConsumer) -> None:
        """Answer for a while, then end the process; another one loads the model before it listens."""
        await self.clock.sleep(consumer.replaces_after_sec)
        self.die(consumer.name)

    async def _unload(self, consumer: FakeConsumer) -> None:
        self._refuse(consumer, consumer.unload_error)
        await self.clock.sleep(consumer.unload_sec)
        self._refuse(consumer, "")
        if not consumer.lies:
            consumer.loaded, consumer.host_mib = False, consumer.parks_mib
            self._hold(consumer, min(consumer.residual_mib, consumer.held_mib))

    def _refuse(self, consumer: FakeConsumer, error: str, status: int = 500) -> None:
        if not consumer.running:
            raise RouteFailed("nothing listens there (connection refused)", refused=True)
        if error:
            reason = " Internal Server Error" if status == 500 else ""
            raise RouteFailed(f"answered {status}{reason}: {error}", status=status)

    def _fit(self, consumer: FakeConsumer, mib: int) -> None:
        """Fail as CUDA does if a device does not have enough memory, which gpumand is meant to prevent."""
        for device in (consumer.device, *consumer.also_on):
            others = [one for one in self.consumers.values() if one is not consumer and device in _devices(one)]
            total_mib = self.device_mib.get(device)
            if total_mib is not None and sum(one.held_mib for one in others) + mib > total_mib:
                consumer.ooms += 1
                self._hold(consumer, 0)
                raise RouteFailed("answered 500 Internal Server Error: CUDA out of memory")

    def _hold(self, consumer: FakeConsumer, mib: int) -> None:
        consumer.held_mib = mib
        if self.vram is not None and mib:
            for device in _devices(consumer):
                self.vram.hold(consumer.pid, mib, device=device, consumer=consumer.name, name=consumer.name)
        elif self.vram is not None:
            self.vram.release(consumer.pid)


def _devices(consumer: FakeConsumer) -> tuple[int, ...]:
    return (consumer.device, *consumer.also_on)
