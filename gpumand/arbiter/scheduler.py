"""The queue at work: every waiting request is decided in order, and granted, refused, or started on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import replace

from gpumand.arbiter.background import BackgroundTasks
from gpumand.arbiter.busy_probes import BusyProbes
from gpumand.arbiter.jobs import Jobs
from gpumand.arbiter.leases import Leases
from gpumand.arbiter.reconciler import Reconciler
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.waiting_request import Waiting
from gpumand.arbiter.work_gate import WorkGate
from gpumand.domain import queue_policy
from gpumand.domain.consumer import Policy
from gpumand.domain.device import Devices
from gpumand.domain.errors import Busy, GpumandError, LimitsExceeded
from gpumand.domain.fairness import FairShare
from gpumand.domain.planning import Decision, Requirement, decide
from gpumand.domain.queue import RequestQueue
from gpumand.domain.queue_pass import QueueEntry, QueuePass, Ruling, as_wait
from gpumand.domain.request import Request, Verdict
from gpumand.domain.view import View

log = logging.getLogger(__name__)

MAX_LEASES_PER_UID, MAX_LEASES = 64, 1024

NOT_THERE = "it is not resident and would have to be loaded first"
INTERNAL_ERROR = Decision(Verdict.REFUSE, error=GpumandError, message="internal error; see the log")


class Scheduler:
    """Serves the queue. ``step`` is the only place where a request is decided, and it never awaits.

    Attributes:
        beside: what is done beside; it ends with the desk.
    """

    def __init__(
        self,
        arbiter_state: ArbiterState,
        facts: Reconciler,
        jobs: Jobs,
        leases: Leases,
        gate: WorkGate,
        busyness: BusyProbes,
    ) -> None:
        self._books, self._facts, self._jobs, self._leases, self._gate = arbiter_state, facts, jobs, leases, gate
        self._busyness = busyness
        self._queue = RequestQueue(arbiter_state.settings.scheduler.aging_sec)
        self._entries: dict[int, Waiting] = {}
        self._working: dict[Waiting, Devices] = {}
        self.beside = BackgroundTasks()
        self._fairness, self._charged = FairShare(), dict[int, float]()
        self._seen: View | None = None
        self._seen_changes = 0
        self._known: dict[Requirement, Decision] = {}
        self._waits: dict[Requirement, tuple[Decision, Decision]] = {}
        self._hands: Counter[int] = Counter()
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
        self._queue.add(entry.request, self._put_back_sec(entry.request))

    def _put_back_sec(self, request: Request) -> float:
        """By how much it counts as having come later, so that one user's many requests leave others their share."""
        settings = self._books.settings.scheduler
        if settings.policy is not Policy.ADAPTIVE:
            return 0.0
        user, work_sec = str(request.owner.uid), self._books.state(request.consumer).times.hold_sec()
        back_sec = self._fairness.put_back_sec(user, self._books.clock.monotonic(), work_sec, settings.aging_sec)
        # At the limit its user's clock no longer moves: who leaves again gets back only by how much it did.
        self._charged[request.number] = min(work_sec, settings.aging_sec - back_sec)
        return back_sec

    def leave(self, entry: Waiting) -> None:
        """Take a request out of the queue. Its load, if one is under way, goes on: the next call joins it."""
        self._fairness.give_back(str(entry.request.owner.uid), self._charged.get(entry.request.number, 0.0))
        self._take_out(entry)

    def _take_out(self, entry: Waiting) -> None:
        self._queue.remove(entry.request)
        self._entries.pop(entry.request.number, None)
        self._charged.pop(entry.request.number, None)
        self._books.overtakings.forget(entry.request.number)

    def set_aging(self, aging_sec: float) -> None:
        """Put a new worth of a priority point in force."""
        self._queue.set_aging(aging_sec)

    def moved(self) -> Awaitable[object]:
        """What ends with the next step from now on, however much later it is awaited: something may have changed."""
        return self._moved.wait()

    @contextlib.contextmanager
    def hand(self, devices: Devices) -> Iterator[None]:
        """While somebody waits for devices to evict by hand, no new plan begins there."""
        self._hands.update(devices)
        try:
            yield
        finally:
            self._hands.subtract(devices)
            self._hands = +self._hands

    # -- deciding ------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Look at the queue in order; grant, refuse or start what can be, and tell the world what has changed."""
        entries = () if self._closed else tuple(self)
        self._note_wanted(entries)
        self._note_moved(entries)
        self._seen = None
        standings = tuple(self._standing(entry) for entry in entries)
        walk = queue_policy.queue_pass_for(self._books.settings.scheduler, standings)
        for entry, standing in zip(entries, standings, strict=True):
            try:
                devices = self._serve(entry, standing, walk)
            except Exception:
                # One request that cannot be decided must not keep all others from being served.
                log.exception("the request for %s cannot be decided", entry.request.consumer)
                self._refuse(entry, INTERNAL_ERROR)
                continue
            if entry.is_waiting:
                walk.stays(standing, devices)
        self._books.tell()
        self._moved.set()
        self._moved = asyncio.Event()

    def _standing(self, entry: Waiting) -> QueueEntry:
        request, overtaken_sec = entry.request, self._books.overtakings.seconds(entry.request.number)
        return QueueEntry(request.number, entry.requirement, overtaken_sec, request.priority, entry.loaded)

    def _note_wanted(self, entries: Sequence[Waiting]) -> None:
        """What is waited for is worth more, the sooner the more; lru does not look at it."""
        wanted: dict[str, int] = {}
        if self._books.settings.scheduler.policy is Policy.ADAPTIVE:
            for entry in entries:
                wanted.setdefault(entry.request.consumer, len(wanted))
        self._books.wanted = wanted

    def _note_moved(self, entries: Sequence[Waiting]) -> None:
        """A device that was asked for by its UUID may have another index by now."""
        for entry in entries:
            if entry.request.options.device:
                with contextlib.suppress(GpumandError):
                    entry.devices = self._books.ledger.devices_named(entry.request.options.device)

    def _serve(self, entry: Waiting, standing: QueueEntry, walk: QueuePass) -> tuple[int, ...]:
        """Decide one request and act on it; where it stays ahead of others if it has to wait."""
        working_on = self._working_on(entry)
        if working_on:
            return working_on
        if self._gate.held:
            entry.waiting_for = self._gate.held
            return ()
        decision = self._decide(entry, standing.requirement)
        if decision.verdict is Verdict.GRANT and decision.load and self._is_in_hand(decision):
            ruling = Ruling(as_wait(decision, "an eviction by hand"))
        else:
            ruling = self._checked(entry, walk.rule(self._view(), standing, decision))
        self._busyness.note_needed(ruling.decision.busy if ruling.decision.verdict is Verdict.WAIT else ())
        self._act(entry, ruling)
        return decision.devices

    def _working_on(self, entry: Waiting) -> Devices:
        return self._working.get(entry, ())

    def _is_in_hand(self, decision: Decision) -> bool:
        return any(device in self._hands for device in (*decision.place, *decision.beside))

    def _view(self) -> View:
        """Everything at this moment; within a step the same object for as long as nothing has changed."""
        changes = self._books.ledger.changes
        if self._seen is None or self._seen_changes != changes:
            self._seen, self._seen_changes = self._books.view(), changes
            self._known.clear()
            self._waits.clear()
        return self._seen

    def _decided(self, entry: Waiting, requirement: Requirement) -> Decision:
        """Decide; of many who want the same, and have no bad luck of their own, once."""
        if entry.evict_failed:
            return decide(self._books.view(frozenset(entry.evict_failed)), requirement)
        view = self._view()
        known = self._known.get(requirement)
        if known is None:
            known = self._known[requirement] = decide(view, requirement)
        return known

    def _decide(self, entry: Waiting, requirement: Requirement) -> Decision:
        """Decide on what is true now; figures must have been read for this very decision."""
        if entry.decided:
            entry.decided, entry.sample_after = False, self._books.clock.monotonic()
        decision = self._decided(entry, requirement)
        if not decision.looked_at_vram:
            entry.decided = True
            return decision
        if self._books.sampled_at < entry.sample_after:
            self.sample_soon()
            return self._unread(requirement, decision)
        entry.decided = True
        return decision

    def _unread(self, requirement: Requirement, decision: Decision) -> Decision:
        """The same as a wait for figures; like the decision itself made once for a crowd that wants the same."""
        known = self._waits.get(requirement)
        if known is None or known[0] is not decision:
            waits = replace(as_wait(decision, "reading VRAM"), devices=tuple(self._books.ledger.devices))
            known = self._waits[requirement] = decision, waits
        return known[1]

    def _checked(self, entry: Waiting, ruling: Ruling) -> Ruling:
        """A load beside leases is the walk's own decision: what ``_decide`` and ``_serve`` ask of others holds too."""
        decision = ruling.decision
        if not ruling.is_beside or decision.verdict is not Verdict.GRANT:
            return ruling
        if self._is_in_hand(decision):
            return replace(ruling, decision=as_wait(decision, "an eviction by hand"))
        if decision.looked_at_vram and self._books.sampled_at < entry.sample_after:
            entry.decided = False  # what is read from now on decides
            self.sample_soon()
            return replace(ruling, decision=as_wait(decision, "reading VRAM"))
        return ruling

    def _act(self, entry: Waiting, ruling: Ruling) -> None:
        decision = ruling.decision
        if ruling.is_beside and decision.place:
            self._books.overlapping.wanted(decision.place)
        if decision.verdict is Verdict.WAIT:
            entry.waiting_for = decision.message
        elif decision.verdict is Verdict.REFUSE or not decision.place:
            self._refuse(entry, decision)
        elif decision.resident:
            self._grant(entry, decision.place, ruling.passes)
        elif entry.request.options.timeout_sec > 0 or self._takes_no_time(decision, entry.request.consumer):
            self._start(entry, decision, takes_slot=entry.wants_lease and ruling.takes_slot)
        else:
            entry.waiting_for = NOT_THERE

    def _takes_no_time(self, decision: Decision, consumer: str) -> bool:
        """A lazy consumer that runs and fits is there for the asking."""
        return not decision.evictions and self._books.state(consumer).spec.lazy and self._facts.runs(consumer)

    def _grant(self, entry: Waiting, place: Devices, passes: Sequence[int] = ()) -> None:
        self._take_out(entry)
        error = self._no_more_leases(entry.request.owner.uid) if entry.wants_lease else None
        if error is not None:
            entry.refuse(error)
        elif entry.wants_lease:
            lease = self._leases.create(entry.request, place)
            expected_sec = self._books.state(lease.consumer).times.hold_sec()
            self._books.overtakings.begin(lease.id, passes, expected_sec)
            self._books.overlapping.began(lease.id, place)
            entry.resolve(lease)
        else:
            entry.resolve(None)

    def _no_more_leases(self, uid: int) -> LimitsExceeded | None:
        """What comes all at once is counted when it is granted, not only when it comes."""
        leases = self._books.ledger.leases.values()
        if sum(1 for lease in leases if lease.owner.uid == uid) >= MAX_LEASES_PER_UID:
            return LimitsExceeded(f"uid {uid} has {MAX_LEASES_PER_UID} leases; more are not allowed")
        return LimitsExceeded(f"{MAX_LEASES} leases stand; more are not allowed") if len(leases) >= MAX_LEASES else None

    def _refuse(self, entry: Waiting, decision: Decision) -> None:
        self.leave(entry)
        entry.refuse((decision.error or Busy)(decision.message))

    async def now_or_never(self, entry: Waiting) -> None:
        """Serve a request that will not wait: a last look at the figures, and then it has its lease or its error."""
        await self._books.sample()
        if not entry.is_waiting:
            return
        self._facts.conclude_all()
        entry.decided, entry.sample_after = False, self._books.sampled_at
        self.step()
        if entry.is_waiting and entry not in self._working:
            self.leave(entry)
            decision = self._behind_others(entry.requirement)
            entry.refuse((decision.error or Busy)(decision.message if decision.error else NOT_THERE))

    async def decide_freshly(self, requirement: Requirement) -> Decision:
        """What would be decided about a wish that came now, behind everybody who waits; changes nothing."""
        await self._books.sample()
        return self._behind_others(requirement)

    def _behind_others(self, requirement: Requirement) -> Decision:
        view = self._books.view()
        decision = queue_policy.decide_behind_queue(
            view, requirement, [(self._standing(one), self._working_on(one)) for one in self]
        )
        if self._gate.held and decision.verdict is not Verdict.REFUSE:
            return as_wait(decision, self._gate.held)
        return decision

    # -- working -------------------------------------------------------------------------------------------------

    def _start(self, entry: Waiting, decision: Decision, *, takes_slot: bool) -> None:
        """Take all devices at once, between two awaits: nobody ever holds some of them and waits for others."""
        entry.waiting_for = f"room for {entry.request.consumer}" if decision.evictions else "its load"
        self._jobs.begin(entry.request.consumer, decision, takes_slot=takes_slot)
        self._working[entry] = decision.place
        self.beside.spawn(self._work(entry, decision))

    def resume(self, entry: Waiting, devices: Devices) -> None:
        """Take up again a load that was under way when an earlier daemon died. The devices must be free."""
        self._start(entry, Decision(Verdict.GRANT, devices, load=True), takes_slot=entry.wants_lease)

    async def _work(self, entry: Waiting, decision: Decision) -> None:
        """Carry out a plan and give its request the result; whoever joined the load meanwhile gets it otherwise."""
        result, place = decision, decision.place
        try:
            result = await self._jobs.run(decision, entry, lambda: self._is_wanted(entry, place))
        except Exception:
            log.exception("the plan for %s broke off", entry.request.consumer)
            self._jobs.break_off(entry.request.consumer)
            result = INTERNAL_ERROR
        finally:
            del self._working[entry]
            self._finish(entry, place, result)

    def _finish(self, entry: Waiting, place: Devices, result: Decision) -> None:
        """No await between the job's end and the grant: its slot and its promise go over without a gap."""
        heir = entry if entry.is_waiting else self._heir(entry, place)
        if result.verdict is Verdict.GRANT and result.resident and heir is not None:
            heir.loaded = heir.loaded or entry.loaded
            if not self._gate.held and self._has_slot(heir, place):
                self._grant(heir, place)  # else it is resident when its request is decided again
        elif result.verdict is Verdict.REFUSE and entry.is_waiting:
            self._refuse(entry, result)
        self._jobs.end(place)
        self._facts.conclude_all()  # what was tried and did not work is what the figures say it is
        self.step()

    def _has_slot(self, heir: Waiting, place: Devices) -> bool:
        """Whether a lease may stand now: the job held a slot for it, or there is none to be had."""
        return not heir.wants_lease or self._books.ledger.jobs[place[0]].takes_slot

    def _is_wanted(self, entry: Waiting, place: Devices) -> bool:
        """Whether anybody still waits for what is being made room for, and it may be gone on with."""
        is_awaited = entry.is_waiting or self._joined(entry.request.consumer, place) is not None
        return is_awaited and not self._gate.held

    def _heir(self, entry: Waiting, place: Devices) -> Waiting | None:
        """Who inherits a load whose request has left; a lease only where a slot was held for one."""
        heir = self._joined(entry.request.consumer, place)
        return None if heir is not None and heir.wants_lease and not entry.wants_lease else heir

    def _joined(self, consumer: str, place: Devices) -> Waiting | None:
        """The first that waits for what is being loaded."""
        waiting = (one for one in self if one.request.consumer == consumer)
        return next((one for one in waiting if set(place).issuperset(one.devices)), None)

    def sample_soon(self) -> None:
        """Have the figures read, believed and acted on, unless that is under way already."""
        if not self._sampling:
            self._sampling = True
            self.beside.spawn(self._sample())

    async def _sample(self) -> None:
        try:
            await self._books.sample()
        finally:
            self._sampling = False
        self._facts.conclude_all()
        self.step()

    def look_anew(self) -> None:
        """Have everybody who waits decided only on figures that are read from now on."""
        for entry in self:
            entry.decided, entry.sample_after = False, self._books.clock.monotonic()

    def refuse_all(self, error: GpumandError) -> None:
        """Refuse everybody who waits; a load that is under way goes on for whoever asks next."""
        for entry in tuple(self):
            self.leave(entry)
            entry.refuse(error)

    async def close(self, error: GpumandError) -> None:
        """Refuse everybody who waits and let go of everything that is being done."""
        self._closed = True
        self.refuse_all(error)
        await self.beside.close()
