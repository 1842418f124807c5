"""Consumers in memory: a ConsumerRoutes whose consumers load, free and misbehave as a test says, in a Clock's time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

from gpumand.domain.consumer import ConsumerSpec, Health, Route, Work
from gpumand.ports import Clock, RouteFailed


class VramHolder(Protocol):
    """What FakeRoutes needs of a FakeVram."""

    def hold(self, pid: int, mib: int | None, *, device: int = 0, consumer: str = "", name: str = "") -> None:
        """Let a process hold so much from now on."""

    def release(self, pid: int, *, device: int | None = None) -> None:
        """Let it hold nothing any more."""


@dataclass(slots=True)
class FakeConsumer:
    """One consumer; a test changes any field at any time.

    Attributes:
        name: as configured.
        pid: of the process that holds its memory.
        mib: what its model takes; None = its configured footprint.
        device: where it loads to.
        also_on: further devices that it loads to at the same time, as much on each.
        running: False = nothing listens there.
        loaded: its model is in VRAM.
        held_mib: what it holds.
        load_sec, unload_sec: how long either takes; memory grows in ``load_steps`` equal steps.
        early_load, early_unload: answer at once, work afterwards.
        residual_mib: what stays after an unload.
        parks_mib: what an unload puts into host RAM, until it is loaded again or dies.
        host_mib: what it holds there.
        lies: unload answers 200 and frees nothing.
        hangs: load, unload and probes are never answered.
        load_error, unload_error: what either answers instead of working; "" = works.
        says_loaded: what probes are told; "truth", or a fixed answer.
        says_last_used: whether probes are told when it last worked.
        last_used_usec: when that was; None = never.
        jobs: how much work it has, as its busy route tells; None = that does not answer.
        ooms: loads that would not have fitted the device.
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
    says_loaded: bool | str | None = "truth"
    says_last_used: bool = False
    last_used_usec: int | None = None
    jobs: int | None = 0
    ooms: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """One call that came in; ``at`` in the clock's monotonic seconds."""

    at: float
    verb: str
    consumer: str


@dataclass(slots=True)
class FakeRoutes:
    """See ConsumerRoutes; consumers come into being when first named.

    Attributes:
        clock: the time they live in.
        vram: where they hold memory; None = nowhere.
        device_mib: what devices have, to tell when a load would not have fitted; empty = never told.
        calls: load, unload, probe and jobs calls, in order of arrival.
        consumers: by name; use ``consumer``.
        where: asked at each load which devices the consumer is to be loaded to; None = those that it has.
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
        """The consumer of that name, for a test to look at and to change."""
        if name not in self.consumers:
            self.consumers[name] = FakeConsumer(name, next(self._pids))
        return self.consumers[name]

    def called(self, verb: str) -> list[str]:
        """Which consumers were called so, in order."""
        return [call.consumer for call in self.calls if call.verb == verb]

    def place(self, name: str, mib: int, *, last_used_usec: int | None = None, device: int = 0) -> FakeConsumer:
        """Let a consumer have its model of so many MiB loaded already."""
        consumer = self.consumer(name)
        consumer.mib, consumer.device, consumer.last_used_usec = mib, device, last_used_usec
        self._hold(consumer, mib)
        consumer.loaded = True
        return consumer

    async def work(self, spec: ConsumerSpec, seconds: float = 0.0) -> None:
        """A client uses the consumer: it loads if it has to, works, and remembers when. Raises RouteFailed."""
        consumer = self.consumer(spec.name)
        if not consumer.loaded:
            await self._load(consumer, spec)
        await self.clock.sleep(seconds)
        consumer.last_used_usec = self.clock.realtime_usec()

    def die(self, name: str) -> None:
        """Let its process end: all memory is free, nothing listens, and whatever it was doing is over."""
        consumer = self.consumer(name)
        consumer.running = consumer.loaded = False
        consumer.host_mib = 0
        self._hold(consumer, 0)

    async def load(self, spec: ConsumerSpec) -> None:
        """See ConsumerRoutes."""
        consumer = self._arrive(spec, "load")
        await self._serve(consumer, spec.load, self._load(consumer, spec), consumer.early_load)

    async def unload(self, spec: ConsumerSpec) -> None:
        """See ConsumerRoutes."""
        consumer = self._arrive(spec, "unload")
        await self._serve(consumer, spec.unload, self._unload(consumer), consumer.early_unload)

    async def probe(self, spec: ConsumerSpec) -> Health:
        """See ConsumerRoutes."""
        consumer = self._arrive(spec, "probe")
        if not consumer.running:
            return Health(reachable=False, gone=True, error="nothing listens there (connection refused)")
        if consumer.hangs:
            await self.clock.sleep(spec.health.timeout_sec if spec.health else 5.0)
            return Health(reachable=False, error="no answer in time")
        says = consumer.says_loaded
        loaded = says if isinstance(says, bool) else (consumer.loaded if says == "truth" else None)
        used = consumer.last_used_usec if consumer.says_last_used else None
        return Health(reachable=True, loaded=loaded, last_used_usec=used)

    async def jobs(self, spec: ConsumerSpec) -> Work:
        """See ConsumerRoutes."""
        consumer = self._arrive(spec, "jobs")
        if not consumer.running:
            return Work(None, gone=True, error="nothing listens there (connection refused)")
        if consumer.hangs or consumer.jobs is None:
            await self.clock.sleep(spec.busy.timeout_sec if spec.busy else 2.0)
            return Work(None, error="no answer in time")
        return Work(consumer.jobs)

    async def close(self) -> None:
        """See ConsumerRoutes; ends what still works behind early answers."""
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
        """Work, as a server does it: on and on though nobody waits any more."""
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
            task.exception()  # retrieved: after an early or late answer nobody hears of it

    async def _hang(self, work: Coroutine[Any, Any, None]) -> None:
        work.close()
        await self.clock.sleep(float("inf"))

    async def _load(self, consumer: FakeConsumer, spec: ConsumerSpec) -> None:
        self._refuse(consumer, consumer.load_error)
        if self.where is not None and not consumer.held_mib:
            consumer.device, *more = self.where(consumer.name)
            consumer.also_on = tuple(more)
        mib = consumer.mib if consumer.mib is not None else spec.vram_resident_mib
        for step in range(1, consumer.load_steps + 1):
            await self.clock.sleep(consumer.load_sec / consumer.load_steps)
            self._refuse(consumer, "")
            self._fit(consumer, step_mib := mib * step // consumer.load_steps)
            self._hold(consumer, max(step_mib, consumer.held_mib))
        consumer.loaded, consumer.host_mib = True, 0

    async def _unload(self, consumer: FakeConsumer) -> None:
        self._refuse(consumer, consumer.unload_error)
        await self.clock.sleep(consumer.unload_sec)
        self._refuse(consumer, "")
        if not consumer.lies:
            consumer.loaded, consumer.host_mib = False, consumer.parks_mib
            self._hold(consumer, min(consumer.residual_mib, consumer.held_mib))

    def _refuse(self, consumer: FakeConsumer, error: str) -> None:
        if not consumer.running:
            raise RouteFailed("nothing listens there (connection refused)", refused=True)
        if error:
            raise RouteFailed(f"answered 500 Internal Server Error: {error}")

    def _fit(self, consumer: FakeConsumer, mib: int) -> None:
        """Fail as CUDA does where there is not enough; gpumand is there so that this never happens."""
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
