"""The queue at work: every waiting request is decided in order, and granted, refused, or started on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from typing import Any

from gpumand.arbiter.books import Books
from gpumand.arbiter.facts import Facts
from gpumand.arbiter.jobs import Jobs
from gpumand.arbiter.leases import Leases
from gpumand.arbiter.waiting import Waiting
from gpumand.domain.consumer import Residency
from gpumand.domain.errors import Busy, GpumandError, LimitsExceeded
from gpumand.domain.planning import Decision, Wish, decide, may_pass
from gpumand.domain.queue import RequestQueue
from gpumand.domain.request import Verdict

log = logging.getLogger(__name__)

MAX_LEASES_PER_UID = 64


class Desk:
    """Serves the queue. ``step`` is the only place where a request is decided, and it never awaits."""

    def __init__(self, books: Books, facts: Facts, jobs: Jobs, leases: Leases) -> None:
        self._books, self._facts, self._jobs, self._leases = books, facts, jobs, leases
        self._queue = RequestQueue(books.settings.scheduler.aging_sec)
        self._entries: dict[int, Waiting] = {}
        self._working: dict[int, Waiting] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._sampling = False
        self._closed = False
        self._moved = asyncio.Event()

    # -- who waits -----------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Waiting]:
        """Waiting requests in the order in which they are served."""
        return (self._entries[request.number] for request in self._queue)

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, entry: Waiting) -> None:
        """Let a request wait; ``step`` decides it."""
        self._entries[entry.request.number] = entry
        self._queue.add(entry.request)

    def leave(self, entry: Waiting) -> None:
        """Take a request out of the queue. Its load, if one is under way, goes on: the next call joins it."""
        self._queue.remove(entry.request)
        self._entries.pop(entry.request.number, None)

    def set_aging(self, aging_sec: float) -> None:
        """Put a new worth of a priority point in force."""
        self._queue.set_aging(aging_sec)

    async def moved(self) -> None:
        """Return after the next step: something may have changed."""
        await self._moved.wait()

    # -- deciding ------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Look at the queue in order; grant, refuse or start what can be, and tell the world what has changed."""
        ahead: dict[int, list[str]] = {}
        for entry in () if self._closed else tuple(self):
            device = None
            if entry not in self._working.values():
                decision = self._in_turn(entry, self._decide(entry), ahead)
                device = decision.device
                self._act(entry, decision)
            if entry.is_waiting:
                for contested in self._contested(entry, device):
                    ahead.setdefault(contested, []).append(entry.request.consumer)
        self._books.tell()
        self._moved.set()
        self._moved = asyncio.Event()

    def _decide(self, entry: Waiting) -> Decision:
        """Decide on what is true now; figures must have been read for this very decision."""
        if entry.decided:
            entry.decided, entry.sample_after = False, self._books.clock.monotonic()
        decision = decide(self._books.view(frozenset(entry.evict_failed)), entry.wish)
        if not decision.looked_at_vram:
            entry.decided = True
            return decision
        if self._books.sampled_at < entry.sample_after:
            self._sample_soon()
            return Decision(Verdict.WAIT, decision.device, error=Busy, message="reading VRAM")
        entry.decided = True
        return decision

    def _in_turn(self, entry: Waiting, decision: Decision, ahead: dict[int, list[str]]) -> Decision:
        """First come, first served on a device, except where passing harms nobody ahead."""
        device, consumer = decision.device, entry.request.consumer
        if decision.verdict is not Verdict.GRANT or device is None or device not in ahead:
            return decision
        is_own_start = entry.from_own_unit and self._books.state(consumer).residency is Residency.LOADING
        if is_own_start and decision.resident:
            return decision  # the load that those ahead wait for is waiting for this answer
        if decision.resident and may_pass(self._books.view(), consumer, device, ahead[device]):
            return decision
        others = len(ahead[device])
        line = f"{others} request{'s' if others > 1 else ''} ahead of it"
        return Decision(Verdict.WAIT, device, error=Busy, message=line)

    def _contested(self, entry: Waiting, device: int | None) -> list[int]:
        """Devices on which a waiting request must not be made to wait longer by those behind it."""
        for working_on, other in self._working.items():
            if other is entry:
                return [working_on]
        if entry.device is not None:
            return [entry.device]
        state = self._books.ledger.consumers.get(entry.request.consumer)
        is_somewhere = state is not None and state.residency in (Residency.RESIDENT, Residency.LOADING)
        return [device] if is_somewhere and device is not None else list(self._books.ledger.devices)

    def _act(self, entry: Waiting, decision: Decision) -> None:
        if decision.verdict is Verdict.WAIT:
            entry.waiting_for = decision.message
        elif decision.verdict is Verdict.REFUSE or decision.device is None:
            self._refuse(entry, decision)
        elif decision.resident:
            self._grant(entry, decision.device)
        elif entry.request.options.timeout_sec > 0:
            self._start(entry, decision.device, decision)
        else:
            entry.waiting_for = "it would have to be loaded"

    def _grant(self, entry: Waiting, device: int) -> None:
        self.leave(entry)
        if not entry.wants_lease:
            entry.resolve(None)
            return
        uid = entry.request.owner.uid
        if sum(1 for lease in self._books.ledger.leases.values() if lease.owner.uid == uid) >= MAX_LEASES_PER_UID:
            entry.refuse(LimitsExceeded(f"uid {uid} has {MAX_LEASES_PER_UID} leases; more are not allowed"))
            return
        entry.resolve(self._leases.create(entry.request, device))
        waited_usec = int((self._books.clock.monotonic() - entry.request.arrived_at) * 1e6)
        self._books.count(grants=1, wait_usec=waited_usec)

    def _refuse(self, entry: Waiting, decision: Decision) -> None:
        self.leave(entry)
        entry.refuse((decision.error or Busy)(decision.message))

    async def decide_freshly(self, wish: Wish) -> Decision:
        """What would be decided about a wish that came now, behind everybody who waits; changes nothing."""
        await self._books.sample()
        decision = decide(self._books.view(), wish)
        device = decision.device
        others = [one for one in self if device is not None and device in self._contested(one, None)]
        if decision.verdict is not Verdict.GRANT or device is None or not others:
            return decision
        names = [one.request.consumer for one in others]
        if decision.resident and may_pass(self._books.view(), wish.consumer, device, names):
            return decision
        line = f"{len(others)} request{'s' if len(others) > 1 else ''} ahead of it"
        return Decision(Verdict.WAIT, device, error=Busy, message=line)

    # -- working -------------------------------------------------------------------------------------------------

    def _start(self, entry: Waiting, device: int, decision: Decision) -> None:
        entry.waiting_for = f"room for {entry.request.consumer}" if decision.evictions else "its load"
        self._jobs.begin(device, entry.request.consumer, decision, takes_slot=entry.wants_lease)
        self._working[device] = entry
        self.spawn(self._work(entry, device, decision))

    async def _work(self, entry: Waiting, device: int, decision: Decision) -> None:
        """Carry out a plan and give its request the result; whoever joined the load meanwhile gets it otherwise."""
        result = decision
        try:
            result = await self._jobs.run(device, entry.wish, decision, entry)
        except Exception:
            log.exception("the plan for %s broke off", entry.request.consumer)
            result = Decision(Verdict.REFUSE, device, error=GpumandError, message="internal error; see the log")
        finally:
            del self._working[device]
            self._finish(entry, device, result)

    def _finish(self, entry: Waiting, device: int, result: Decision) -> None:
        """No await between the job's end and the grant: its slot and its promise go over without a gap."""
        heir = entry if entry.is_waiting else self._joined(entry.request.consumer, device)
        if result.verdict is Verdict.GRANT and result.resident and heir is not None:
            heir.loaded = heir.loaded or entry.loaded
            self._grant(heir, device)
        elif result.verdict is Verdict.REFUSE and entry.is_waiting:
            self._refuse(entry, result)
        self._jobs.end(device)
        self._facts.conclude_all()  # what was tried and did not work is what the figures say it is
        self.step()

    def _joined(self, consumer: str, device: int) -> Waiting | None:
        """The first that waits for what was loaded, when the one it was loaded for has left."""
        return next((one for one in self if one.request.consumer == consumer and one.device in (None, device)), None)

    def _sample_soon(self) -> None:
        if not self._sampling:
            self._sampling = True
            self.spawn(self._sample())

    async def _sample(self) -> None:
        try:
            await self._books.sample()
        finally:
            self._sampling = False
        self._facts.conclude_all()
        self.step()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside, and keep hold of it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self, error: GpumandError) -> None:
        """Refuse everybody who waits and let go of everything that is being done."""
        self._closed = True
        for entry in tuple(self):
            self.leave(entry)
            entry.refuse(error)
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
