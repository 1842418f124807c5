"""A waiting request: its future result, and the evictions and loads done for it so far."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from gpumand.domain.decision import Decision, Requirement, with_advice
from gpumand.domain.device import Devices
from gpumand.domain.errors import DeviceUnavailable, GpumandError, TimedOut
from gpumand.domain.lease import Lease
from gpumand.domain.queue_pass import QueueEntry
from gpumand.domain.request import Request
from gpumand.domain.view import StandingLease


@dataclass(slots=True)
class WaitProgress:
    """How far the decision of a waiting request is, and why it waits.

    Attributes:
        waiting_for: the reason for waiting, in one line for ``GetStatus``.
        advice: what ends the wait, as a clause; "" = nothing to do.
        wait_error: the error of the decision to wait; None = it was not decided.
        unread_since: when a failed reading first stood in the way of its decision, in monotonic seconds; None = none.
        decided: a decision has been made; the next one needs a reading taken after it.
        sample_after: only readings taken after this time may be used for a decision, in monotonic seconds.
    """

    waiting_for: str = ""
    advice: str = ""
    wait_error: type[GpumandError] | None = None
    unread_since: float | None = None
    decided: bool = False
    sample_after: float = 0.0

    def copy(self) -> WaitProgress:
        """The progress of a request that shares it no longer."""
        return WaitProgress(
            self.waiting_for, self.advice, self.wait_error, self.unread_since, self.decided, self.sample_after
        )

    def take(self, other: WaitProgress) -> None:
        """Become like the progress of another request."""
        self.waiting_for, self.advice, self.wait_error = other.waiting_for, other.advice, other.wait_error
        self.unread_since, self.decided, self.sample_after = other.unread_since, other.decided, other.sample_after

    def is_like(self, other: WaitProgress) -> bool:
        """Whether the next queue pass would treat both alike: what was decided gets a new ``sample_after`` in it."""
        return self == (replace(other, sample_after=self.sample_after) if self.decided and other.decided else other)


class SharedWait:
    """Waiting requests that a queue pass treats alike, see ``shared_waits``.

    Attributes:
        requirement: what all of them need.
        progress: the progress of all of them.
        members: the requests.
        settled_at: the moment of a queue pass in which the outcome of one of them holds for the others; 0 = never.
        decision: that outcome.
        alike: positions in the queue of those for which it was taken over; None = the first is still to come.
        revision: the ledger's revision that it was decided on.
        decided_at: when that was, in monotonic seconds.
        wanted: the decision whose leases some of them have not wanted before; None = all know all of them.
    """

    __slots__ = (
        "_deadlines",
        "alike",
        "decided_at",
        "decision",
        "known_leases",
        "members",
        "progress",
        "requirement",
        "revision",
        "settled_at",
        "wanted",
    )

    def __init__(self, requirement: Requirement, progress: WaitProgress) -> None:
        self.requirement, self.progress = requirement, progress
        self.members: set[WaitingRequest] = set()
        self.settled_at, self.revision, self.decided_at = 0, -1, -math.inf
        self.decision: Decision | None = None
        self.alike: list[int] | None = None
        self.wanted: Decision | None = None
        self.known_leases = frozenset[str]()
        self._deadlines: tuple[float, float] | None = None

    @property
    def first_deadline(self) -> float:
        """When the first of the members times out, in monotonic seconds; infinity without members."""
        return self._deadline_range()[0]

    @property
    def last_deadline(self) -> float:
        """When the last of the members times out, in monotonic seconds; minus infinity without members."""
        return self._deadline_range()[1]

    def is_like(self, entry: WaitingRequest) -> bool:
        """Whether a request with this requirement can join."""
        return self.progress.is_like(entry.progress) and self.known_leases <= entry.wanted_leases

    def add(self, entry: WaitingRequest) -> None:
        """Let a request share the progress of the others."""
        self.members.add(entry)
        entry.group, entry.progress = self, self.progress
        if self._deadlines is not None:
            first, last = self._deadlines
            self._deadlines = min(first, entry.deadline), max(last, entry.deadline)

    def remove(self, entry: WaitingRequest) -> None:
        """Let a member be decided by itself."""
        self.members.discard(entry)
        if self._deadlines is not None and entry.deadline in self._deadlines:
            # The deadline of a request that has left would count as passed for ever: a queue pass each millisecond.
            self._deadlines = None

    def _deadline_range(self) -> tuple[float, float]:
        # Computed when it is needed, so that many members that leave together cost one computation.
        if self._deadlines is None:
            deadlines = [entry.deadline for entry in self.members]
            self._deadlines = min(deadlines, default=math.inf), max(deadlines, default=-math.inf)
        return self._deadlines

    def all_know(self, leases: Collection[str]) -> bool:
        """Whether the holders of these leases were informed that each of the requests waits for them."""
        if not self.known_leases.issuperset(leases):
            if not all(entry.wanted_leases.issuperset(leases) for entry in self.members):
                return False
            self.known_leases = frozenset(leases)
        return True


@dataclass(slots=True, eq=False)
class WaitingRequest:
    """One waiting request.

    Attributes:
        request: the Acquire or Load request.
        devices: devices it must use, or that must be among those it uses if it needs more; () = any that fit.
        done: resolved when the consumer is resident, with the granted lease (None for Load) or with an error;
            cancelled when the client has disconnected.
        wants_lease: True for Acquire, False for Load.
        from_own_unit: the caller runs in the consumer's own unit.
        progress: how far its decision is; requests that wait alike share it, see ``shared_waits``.
        evict_failed: victims whose eviction for this request freed nothing.
        evicted: victims evicted for this request, in order.
        evictions: attempted evictions for this request, including failed ones.
        loaded: whether its consumer was loaded for this request.
        ignores_turns: consumers that have their turn may be evicted for it, since it has waited long enough for them.
        gives_back: the lease of ``yield_lease``, until it is given back; None = none.
        own_leases: ids of leases that its client keeps until this request is decided.
        wanted_leases: ids of the leases whose holders were informed that it waits for them.
        restores: id of the lease whose consumer it makes resident again; "" = it is for a new lease.
        queue_entry: what the queue rule last saw of it.
        group: the requests that wait alike, with this one; None = it is decided by itself.
    """

    request: Request
    devices: Devices
    done: asyncio.Future[Lease | None]
    wants_lease: bool = True
    from_own_unit: bool = False
    progress: WaitProgress = field(default_factory=WaitProgress)
    evict_failed: set[str] = field(default_factory=set)
    evicted: list[str] = field(default_factory=list)
    evictions: int = 0
    loaded: bool = False
    ignores_turns: bool = False
    gives_back: StandingLease | None = None
    own_leases: frozenset[str] = frozenset()
    restores: str = ""
    wanted_leases: set[str] = field(default_factory=set)
    queue_entry: QueueEntry | None = None
    group: SharedWait | None = None
    _id: str = ""

    @property
    def id(self) -> str:
        """Unguessable handle, for ``Cancel``; made when it is first needed, as hardly any request has to wait."""
        self._id = self._id or os.urandom(10).hex()
        return self._id

    def leave_group(self) -> None:
        """Be decided by itself from now on."""
        if self.group is not None:
            self.group.remove(self)
            if self.progress is self.group.progress:
                self.progress = self.progress.copy()
            self.group = None

    @property
    def deadline(self) -> float:
        """When it times out, in monotonic seconds."""
        return self.request.arrived_at + self.request.options.timeout_sec

    @property
    def requirement(self) -> Requirement:
        """The part of the request that a decision depends on; equal for all requests that need the same."""
        return Requirement(
            self.request.consumer,
            self.devices,
            self.wants_lease,
            from_own_unit=self.from_own_unit,
            evictions_done=self.evictions,
            # No turn delays a manual load, which an administrator decided, or a client that gets its lease back.
            ignores_turns=self.ignores_turns or not self.wants_lease or bool(self.restores),
            exclusive=self.request.options.exclusive and self.wants_lease,
            gives_back=self.gives_back,
        )

    def wait_for(self, reason: str, advice: str = "", error: type[GpumandError] | None = None) -> None:
        """Set the reason for waiting, what ends it, and the error of a request that does not wait for that."""
        progress = self.progress
        progress.waiting_for, progress.advice, progress.wait_error = reason, advice, error

    @property
    def waiting_for(self) -> str:
        """The reason for waiting, in one line."""
        return self.progress.waiting_for

    @property
    def advice(self) -> str:
        """What ends the wait, as a clause; "" = nothing to do."""
        return self.progress.advice

    def timed_out(self, timeout_sec: float, load_state: str = "") -> GpumandError:
        """The error for a request that has waited this long: the reason, and what the client can do.

        Args:
            timeout_sec: how long it has waited.
            load_state: what the last check of its consumer's load has shown; "" where it is not being loaded.
        """
        reason = self.waiting_for or "not decided yet"
        reason += f" ({load_state})" if load_state else ""
        advice = f"wait longer with option 'timeout_usec'{', or ' if self.advice else ''}{self.advice}"
        text = f"timed out after {timeout_sec:g} s waiting for {self.request.consumer}: {reason}"
        kind = DeviceUnavailable if self.progress.wait_error is DeviceUnavailable else TimedOut
        return kind(with_advice(text, advice))

    @property
    def is_waiting(self) -> bool:
        """Whether it is neither granted, refused nor cancelled."""
        return not self.done.done()

    def grant(self, lease: Lease | None) -> None:
        """Grant it, unless it has ended already."""
        if self.is_waiting:
            self.done.set_result(lease)

    def refuse(self, error: GpumandError) -> None:
        """Refuse it with an error, unless it has ended already."""
        if self.is_waiting:
            self.done.set_exception(error)
            # Mark the exception as retrieved: asyncio logs one that no caller has read, and the client may be gone.
            self.done.exception()
