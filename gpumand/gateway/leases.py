"""Holds the leases of requests in flight: carries out the commands of ``turns`` and renews the leases."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from gpumand.client.errors import CallerError, GpumandError, NoSuchLease
from gpumand.client.values import Grant
from gpumand.gateway.turns import Acquire, Cancel, Command, Demand, Merge, Phase, Release, Turns

log = logging.getLogger(__name__)

RENEW_RETRY_SEC = 2.0

CLOSE_SEC = 5.0
"""Seconds to wait for releases at the end of the process."""

MAX_WANTED = 1024
"""Maximum number of leases, of all owners, that are remembered as wanted."""


class Arbiter(Protocol):
    """What the leases need of gpumand; ``arbiter_client`` implements it over D-Bus."""

    async def acquire(self, consumer: str, priority: int | None, reason: str) -> Grant:
        """Acquire a lease, waiting without a limit; cancelling withdraws the request. Raises GpumandError."""

    async def release(self, lease: str) -> None:
        """Release a lease; a lease that cannot be released ends with its time to live. Never raises GpumandError."""

    async def renew(self, lease: str) -> None:
        """Extend a lease by its time to live. Raises GpumandError."""


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """Times in seconds: turns, lingering and the time to live of a lease."""

    turn_sec: float = 2.0
    linger_sec: float = 5.0
    ttl_sec: float = 120.0


class Ticket:
    """The place of one request in a generation.

    Attributes:
        ready: resolved with the grant, or with the error that the Acquire ended with.
        lost: why the lease ended before the request did, as in gpumand's signal LeaseEnded, "" if that is unknown; None
            while the lease is active.
    """

    def __init__(self, owner: ConsumerLeases, generation: int) -> None:
        self.ready: asyncio.Future[Grant] = asyncio.get_running_loop().create_future()
        self.lost: str | None = None
        self._owner, self._generation = owner, generation
        self._is_left = False

    def leave(self) -> None:
        """The request has ended or does not wait any more; may be called repeatedly."""
        if self._is_left:
            return
        self._is_left = True
        self.ready.cancel()
        if self.ready.done() and not self.ready.cancelled():
            self.ready.exception()  # retrieved, so that asyncio does not report an error that no request waits for
        self._owner.leave(self, self._generation)

    def move(self, generation: int) -> None:
        """Another generation covers the request; internal."""
        self._generation = generation

    def settle(self, grant: Grant | None, error: GpumandError | None) -> None:
        """Resolve ``ready``; internal."""
        if self.ready.done():
            return
        if error is not None:
            self.ready.set_exception(error)
        elif grant is not None:
            self.ready.set_result(grant)


@dataclass(slots=True)
class _Lease:
    """The Acquire of a generation and what became of it."""

    reason: str
    tickets: set[Ticket] = field(default_factory=set)
    task: asyncio.Task[None] | None = None
    grant: Grant | None = None


class ConsumerLeases:
    """The leases of one consumer.

    Args:
        name: name of the consumer.
        arbiter: acquires, renews and releases.
        settings: the times.
        turn_opened: called at every grant, with this object.
    """

    def __init__(
        self, name: str, arbiter: Arbiter, settings: LeaseSettings, turn_opened: Callable[[ConsumerLeases], None]
    ) -> None:
        self.name = name
        self._arbiter, self._settings, self._turn_opened = arbiter, settings, turn_opened
        self._turns = Turns(settings.turn_sec, settings.linger_sec)
        self._leases: dict[int, _Lease] = {}
        self._releases: set[asyncio.Task[None]] = set()
        self._expiry: asyncio.TimerHandle | None = None
        self._clock = asyncio.get_running_loop().time

    @property
    def lease_ids(self) -> frozenset[str]:
        """The ids of all leases on the consumer that are active."""
        return frozenset(one.grant.id for one in self._leases.values() if one.grant is not None)

    @property
    def waiting(self) -> int:
        """Number of requests that wait for a grant."""
        return sum(len(one.tickets) for one in self._leases.values() if one.grant is None)

    def configure(self, settings: LeaseSettings) -> None:
        """Take over changed times."""
        self._settings = settings
        self._turns.turn_sec, self._turns.linger_sec = settings.turn_sec, settings.linger_sec

    def join(self, priority: int | None, reason: str) -> Ticket:
        """Count a request; its ticket becomes ready when a lease covers it."""
        number, commands = self._turns.join(self._clock(), priority)
        lease = self._leases.setdefault(number, _Lease(reason))
        ticket = Ticket(self, number)
        lease.tickets.add(ticket)
        if lease.grant is not None:
            ticket.settle(lease.grant, None)
        self._run(commands)
        return ticket

    def leave(self, ticket: Ticket, generation: int) -> None:
        """A request has ended; called by its ticket."""
        if (lease := self._leases.get(generation)) is not None:
            lease.tickets.discard(ticket)
        self._run(self._turns.leave(self._clock(), generation))

    def set_demand(self, demand: Demand) -> None:
        """Take note of other requests that wait."""
        self._run(self._turns.set_demand(self._clock(), demand))

    def adopt(self, grant: Grant, count: int) -> list[Ticket]:
        """Take over a lease that exists already, for this many jobs; returns their tickets."""
        number = self._turns.adopt(self._clock(), count)
        tickets = [Ticket(self, number) for _ in range(count)]
        for ticket in tickets:
            ticket.settle(grant, None)
        task = asyncio.ensure_future(self._keep(number, grant.id))
        self._leases[number] = _Lease("", set(tickets), task, grant)
        return tickets

    def lease_ended(self, lease_id: str, reason: str = "") -> None:
        """A lease has ended without a release, for example because it was revoked."""
        for number, one in tuple(self._leases.items()):
            # Where the gateway releases it itself, the task of the release reports it.
            if one.grant is not None and one.grant.id == lease_id and self._turns.phase(number) is Phase.GRANTED:
                log.info("%s: lease %s has ended; requests in flight go on without it", self.name, lease_id)
                for ticket in one.tickets:
                    ticket.lost = reason
                self._forget(number)
                self._run(self._turns.ended(number))

    async def close(self, kept: Collection[str] = ()) -> None:
        """Release all leases except these, which the next process takes over."""
        numbers = {number for number, one in self._leases.items() if one.grant is not None and one.grant.id in kept}
        self._run(self._turns.release_all(numbers))
        if self._expiry is not None:
            self._expiry.cancel()
        tasks = [one.task for one in self._leases.values() if one.task is not None]
        for task in tasks:
            task.cancel()
        # While gpumand is absent, its leases end by themselves.
        if releases := set(self._releases):
            await asyncio.wait(releases, timeout=CLOSE_SEC)
        for task in releases:
            task.cancel()
        await asyncio.gather(*tasks, *releases, return_exceptions=True)

    # -- commands ------------------------------------------------------------------------------------------------

    def _run(self, commands: Iterable[Command]) -> None:
        for command in commands:
            match command:
                case Acquire(number, priority):
                    self._leases[number].task = asyncio.ensure_future(self._acquire(number, priority))
                case Cancel(number):
                    self._forget(number)
                case Release(number):
                    self._start_release(number)
                case Merge(number, into):
                    self._merge(number, into)
        self._set_expiry()

    async def _acquire(self, number: int, priority: int | None) -> None:
        """Acquire the lease of a generation, and renew it until it ends."""
        lease = self._leases[number]
        try:
            grant = await self._arbiter.acquire(self.name, priority, lease.reason)
        except GpumandError as error:
            self._fail(number, error)
            return
        lease.grant = grant
        self._run(self._turns.granted(self._clock(), number))
        self._turn_opened(self)
        for ticket in tuple(lease.tickets):
            ticket.settle(grant, None)
        await self._keep(number, grant.id)

    def _fail(self, number: int, error: GpumandError) -> None:
        lease = self._leases.pop(number, None)
        for ticket in lease.tickets if lease else ():
            # Each request has an exception of its own: a traceback is attached where it is raised.
            ticket.settle(None, _copy(error))
        self._run(self._turns.ended(number))

    async def _keep(self, number: int, lease_id: str) -> None:
        pause_sec = self._settings.ttl_sec / 2
        while True:
            await asyncio.sleep(pause_sec)
            try:
                await self._arbiter.renew(lease_id)
                pause_sec = self._settings.ttl_sec / 2
            except NoSuchLease:
                self.lease_ended(lease_id)
                return
            except CallerError as error:
                log.warning("%s: lease %s cannot be renewed: %s", self.name, lease_id, error.message)
            except GpumandError:
                # gpumand is restarting, which does not end its leases.
                pause_sec = RENEW_RETRY_SEC

    def _merge(self, number: int, into: int) -> None:
        """Move the requests of a generation into one that has its lease; the Acquire is withdrawn."""
        source, target = self._leases[number], self._leases[into]
        for ticket in source.tickets:
            ticket.move(into)
        target.tickets |= source.tickets
        self._forget(number)

    def _start_release(self, number: int) -> None:
        task = asyncio.ensure_future(self._release(number))
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)

    async def _release(self, number: int) -> None:
        lease = self._leases[number]
        if lease.task is not None and lease.task is not asyncio.current_task():
            lease.task.cancel()
        if lease.grant is not None:
            await self._arbiter.release(lease.grant.id)
        self._leases.pop(number, None)
        self._run(self._turns.released(number))

    def _forget(self, number: int) -> None:
        lease = self._leases.pop(number, None)
        if lease is not None and lease.task is not None and lease.task is not asyncio.current_task():
            lease.task.cancel()

    def _set_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
        at = self._turns.next_expiry
        self._expiry = None if at is None else asyncio.get_running_loop().call_at(at, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        # A timer may fire slightly early.
        self._run(self._turns.expire(self._clock() + 0.001))


class LeaseKeeper:
    """The leases of all consumers.

    Args:
        arbiter: acquires, renews and releases.
        settings: the times, for consumers that are requested from now on.
        turn_opened: called with the consumer at every grant.
    """

    def __init__(
        self, arbiter: Arbiter, settings: LeaseSettings, turn_opened: Callable[[str], None] = lambda _: None
    ) -> None:
        self.settings = settings
        self._arbiter, self._turn_opened = arbiter, turn_opened
        self._consumers: dict[str, ConsumerLeases] = {}
        self._waiting = 0
        self._wanted: dict[str, None] = {}

    def join(self, consumer: str, priority: int | None, reason: str) -> Ticket:
        """Count a request to a consumer; see ``ConsumerLeases.join``."""
        return self._leases_of(consumer).join(priority, reason)

    def configure(self, settings: LeaseSettings) -> None:
        """Take over changed times; leases that are active keep their time to live until they are renewed."""
        self.settings = settings
        for one in self._consumers.values():
            one.configure(settings)

    def waiting(self, consumer: str) -> int:
        """Number of requests that wait for a lease on a consumer."""
        return self._consumers[consumer].waiting if consumer in self._consumers else 0

    def lease_ids(self) -> frozenset[str]:
        """The ids of all active leases."""
        return frozenset(one for leases in self._consumers.values() for one in leases.lease_ids)

    def set_waiting(self, count: int) -> None:
        """Take note of how many requests wait in gpumand's queue, where it does not say for which leases."""
        self._waiting = count
        self._update_demand()

    def lease_wanted(self, lease: str) -> None:
        """A request waits for this lease to end."""
        # The signal may arrive before the answer of the Acquire, so an unknown lease may be one of ours.
        self._wanted[lease] = None
        if len(self._wanted) > MAX_WANTED:
            del self._wanted[next(iter(self._wanted))]
        self._update_demand()

    def queue_emptied(self) -> None:
        """No request waits any more."""
        self._wanted.clear()
        self.set_waiting(0)

    def lease_ended(self, lease: str, reason: str = "") -> None:
        """A lease has ended, for whatever reason."""
        self._wanted.pop(lease, None)
        for one in self._consumers.values():
            if lease in one.lease_ids:
                one.lease_ended(lease, reason)

    def adopt(self, consumer: str, grant: Grant, count: int) -> list[Ticket]:
        """Take over a lease that exists already, for this many jobs; returns their tickets."""
        one = self._leases_of(consumer)
        tickets = one.adopt(grant, count)
        one.set_demand(self._demand_for(one))
        return tickets

    async def close(self, kept: Collection[str] = ()) -> None:
        """Release all leases except these, which get their whole time to live, so that the next process takes them."""
        await asyncio.gather(*(self._extend(lease) for lease in kept))
        await asyncio.gather(*(one.close(kept) for one in self._consumers.values()))

    async def _extend(self, lease: str) -> None:
        # While gpumand is absent, the lease has at least half of its time left.
        with contextlib.suppress(GpumandError, TimeoutError):
            async with asyncio.timeout(CLOSE_SEC):
                await self._arbiter.renew(lease)

    def _leases_of(self, consumer: str) -> ConsumerLeases:
        if consumer not in self._consumers:
            made = ConsumerLeases(consumer, self._arbiter, self.settings, self._opened)
            self._consumers[consumer] = made
            made.set_demand(self._demand_for(made))
        return self._consumers[consumer]

    def _opened(self, one: ConsumerLeases) -> None:
        self._turn_opened(one.name)
        one.set_demand(self._demand_for(one))

    def _update_demand(self) -> None:
        for one in self._consumers.values():
            one.set_demand(self._demand_for(one))

    def _demand_for(self, one: ConsumerLeases) -> Demand:
        if not one.lease_ids.isdisjoint(self._wanted):
            return Demand.WANTED
        return Demand.WAITING if self._waiting else Demand.NONE


def _copy(error: GpumandError) -> GpumandError:
    copy = type(error)(error.message)
    copy.dbus_name = error.dbus_name
    return copy
