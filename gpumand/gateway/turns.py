"""Decides which requests share a lease: turns, as a state machine without clock, bus or asyncio.

All requests in flight to a consumer share the lease of a generation. While no other request waits for the memory, every
new request joins the current generation. Otherwise a generation takes new requests only for ``turn_sec``: after that,
new requests wait for a lease of their own, which gpumand queues behind the requests that wait already, so that endless
requests to one consumer cannot keep another one waiting. A request counts before its Acquire returns, so that a lease
never ends between its grant and its first request.

Every method returns the commands that the caller has to carry out, in order.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum


class Demand(Enum):
    """The other waiting requests, as far as they are known."""

    NONE = "none"
    WAITING = "waiting"
    """Some request waits, but it is not known for which memory."""

    WANTED = "wanted"
    """A request waits for a lease on this consumer to end."""


class Phase(Enum):
    """The state of a generation."""

    HELD_BACK = "held back"
    """It is acquired when the leases of earlier generations have ended."""

    ACQUIRING = "acquiring"
    GRANTED = "granted"
    RELEASING = "releasing"


@dataclass(frozen=True, slots=True)
class Acquire:
    """Request a lease for a generation, with the highest priority of the requests in it.

    A priority of None is the consumer's own, while gpumand has not said what that is.
    """

    generation: int
    priority: int | None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Withdraw the request for a generation that no request needs any more."""

    generation: int


@dataclass(frozen=True, slots=True)
class Release:
    """Release the lease of a generation, and report with ``Turns.released``."""

    generation: int


@dataclass(frozen=True, slots=True)
class Merge:
    """Move the requests of a generation that waits into one whose lease was granted, and withdraw its Acquire."""

    generation: int
    into: int


Command = Acquire | Cancel | Release | Merge


@dataclass(slots=True)
class _Generation:
    number: int
    priority: int | None
    phase: Phase
    members: int = 0
    granted_at: float = 0.0
    lingers_until: float | None = None


class Turns:
    """The generations of one consumer.

    Args:
        turn_sec: seconds after its grant in which a generation takes new requests although others wait.
        linger_sec: seconds that a lease without requests is kept while no other request waits.
    """

    def __init__(self, turn_sec: float, linger_sec: float) -> None:
        self.turn_sec, self.linger_sec = turn_sec, linger_sec
        self._generations: dict[int, _Generation] = {}
        self._demand = Demand.NONE
        self._last = 0

    @property
    def is_idle(self) -> bool:
        """Whether there is no generation, so that this object can be dropped."""
        return not self._generations

    def phase(self, generation: int) -> Phase | None:
        """The phase of a generation; None once it has ended."""
        found = self._generations.get(generation)
        return found.phase if found else None

    def join(self, now: float, priority: int | None) -> tuple[int, list[Command]]:
        """Add a request to a generation that takes it, else to a new one; returns its number.

        Args:
            now: monotonic seconds.
            priority: -100 to 100; None = the consumer's own, which may be higher or lower than any other.
        """
        found = self._joinable(now, priority)
        if found is not None:
            found.members += 1
            found.lingers_until = None
            if found.phase is Phase.HELD_BACK:
                found.priority = max((one for one in (priority, found.priority) if one is not None), default=None)
            return found.number, []
        self._last += 1
        is_held_back = self._demand is Demand.WANTED and self._has_lease()
        phase = Phase.HELD_BACK if is_held_back else Phase.ACQUIRING
        self._generations[self._last] = _Generation(self._last, priority, phase, members=1)
        return self._last, [] if is_held_back else [Acquire(self._last, priority)]

    def adopt(self, now: float, members: int) -> int:
        """Add a generation whose lease exists already; returns its number.

        Args:
            now: monotonic seconds.
            members: number of requests or jobs in it, at least 1.
        """
        self._last += 1
        self._generations[self._last] = _Generation(self._last, 0, Phase.GRANTED, members, granted_at=now)
        return self._last

    def granted(self, now: float, generation: int) -> list[Command]:
        """The lease of a generation was granted.

        Requests of other priorities that wait for a lease of their own share it, as new requests do in this moment.
        """
        found = self._generations.get(generation)
        if found is None:
            return []
        found.phase, found.granted_at = Phase.GRANTED, now
        merged: list[Command] = [self._merge(one, found) for one in self._acquiring()]
        return merged if found.members else self._empty(now, found)

    def _acquiring(self) -> list[_Generation]:
        return [one for one in self._generations.values() if one.phase is Phase.ACQUIRING]

    def _merge(self, one: _Generation, into: _Generation) -> Merge:
        into.members += one.members
        del self._generations[one.number]
        return Merge(one.number, into.number)

    def leave(self, now: float, generation: int) -> list[Command]:
        """A request has ended, or does not wait any more."""
        found = self._generations.get(generation)
        if found is None:
            return []
        found.members -= 1
        return [] if found.members else self._empty(now, found)

    def ended(self, generation: int) -> list[Command]:
        """The Acquire of a generation failed, or its lease ended; requests in it are no longer counted."""
        self._generations.pop(generation, None)
        return self._begin_held_back()

    def released(self, generation: int) -> list[Command]:
        """The lease of a generation was released."""
        return self.ended(generation)

    def set_demand(self, now: float, demand: Demand) -> list[Command]:
        """Take note of other requests that wait; a lease that only lingers is released for them."""
        self._demand = demand
        if demand is Demand.NONE:
            return []
        lingering = [one for one in self._generations.values() if one.lingers_until is not None]
        return [command for one in lingering for command in self._empty(now, one)]

    def expire(self, now: float) -> list[Command]:
        """Release the leases whose time of lingering is over."""
        over = [one for one in self._generations.values() if one.lingers_until is not None and one.lingers_until <= now]
        return [self._release(one) for one in over]

    @property
    def next_expiry(self) -> float | None:
        """When ``expire`` has to be called next; None = not needed."""
        return min(
            (one.lingers_until for one in self._generations.values() if one.lingers_until is not None), default=None
        )

    def release_all(self, kept: Collection[int] = ()) -> list[Command]:
        """Give up everything, at the end of the process.

        Args:
            kept: generations whose leases the next process takes over.
        """
        commands: list[Command] = []
        for one in tuple(self._generations.values()):
            if one.number in kept:
                continue
            if one.phase is Phase.GRANTED:
                commands.append(self._release(one))
            elif one.phase is not Phase.RELEASING:
                del self._generations[one.number]
                commands += [Cancel(one.number)] if one.phase is Phase.ACQUIRING else []
        return commands

    def _joinable(self, now: float, priority: int | None) -> _Generation | None:
        """The generation that serves a new request first."""
        newest_first = sorted(self._generations.values(), key=lambda one: (one.phase is not Phase.GRANTED, -one.number))
        return next((one for one in newest_first if self._takes(one, now, priority)), None)

    def _takes(self, one: _Generation, now: float, priority: int | None) -> bool:
        if one.phase is Phase.GRANTED:
            return self._demand is Demand.NONE or now - one.granted_at < self.turn_sec
        if priority is None or one.priority is None:
            return priority is one.priority and one.phase in (Phase.HELD_BACK, Phase.ACQUIRING)
        # A request with a higher priority than a waiting Acquire needs one of its own.
        return one.phase is Phase.HELD_BACK or (one.phase is Phase.ACQUIRING and priority <= one.priority)

    def _has_lease(self) -> bool:
        return any(one.phase in (Phase.GRANTED, Phase.RELEASING) for one in self._generations.values())

    def _empty(self, now: float, one: _Generation) -> list[Command]:
        """Commands for a generation without requests."""
        if one.phase is Phase.GRANTED:
            if self._demand is Demand.NONE and self.linger_sec > 0:
                one.lingers_until = now + self.linger_sec
                return []
            return [self._release(one)]
        if one.phase is Phase.RELEASING:
            return []
        del self._generations[one.number]
        return [Cancel(one.number)] if one.phase is Phase.ACQUIRING else []

    def _release(self, one: _Generation) -> Release:
        one.phase, one.lingers_until = Phase.RELEASING, None
        return Release(one.number)

    def _begin_held_back(self) -> list[Command]:
        if self._has_lease():
            return []
        held_back = [one for one in self._generations.values() if one.phase is Phase.HELD_BACK]
        for one in held_back:
            one.phase = Phase.ACQUIRING
        return [Acquire(one.number, one.priority) for one in held_back]
