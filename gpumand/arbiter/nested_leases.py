"""Leases that are given back for a nested lease and restored after it, and requests that would wait for themselves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Protocol

from gpumand.arbiter.background import BackgroundTasks
from gpumand.arbiter.leases import Leases
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.domain import decision_messages
from gpumand.domain.decision import Requirement
from gpumand.domain.device import Devices
from gpumand.domain.errors import AccessDenied, GpumandError, InvalidArgs, NoSuchLease, ShuttingDown, WouldDeadlock
from gpumand.domain.lease import Lease, LeaseEnd, LeaseLifetime, Owner
from gpumand.domain.nested_leases import if_only_these_stand
from gpumand.domain.planning import decide
from gpumand.domain.request import AcquireOptions, Verdict
from gpumand.domain.request_limits import MAX_WAIT_SEC
from gpumand.domain.view import StandingLease, View

log = logging.getLogger(__name__)


class RequestFactory(Protocol):
    """Makes a request that is not queued yet."""

    def __call__(self, owner: Owner, consumer: str, options: AcquireOptions) -> WaitingRequest:
        """Raises NoSuchConsumer, NoSuchDevice, DeviceUnavailable."""


class RestoreQueue(Protocol):
    """The part of the scheduler that restores leases: requests join its queue like those of clients."""

    background: BackgroundTasks

    def add(self, entry: WaitingRequest) -> None:
        """Queue a request."""

    def remove(self, entry: WaitingRequest) -> None:
        """Remove a request without a grant."""

    def step(self) -> None:
        """Decide the waiting requests."""


class NestedLeases:
    """Gives leases back when the request that asked for it is served, and restores them when its lease has ended.

    A lease stays given back as long as any lease or any request that is being served uses its place. It is restored by
    a request of its own, which ranks by the time at which the lease was granted.
    """

    def __init__(self, state: ArbiterState, leases: Leases) -> None:
        self._state, self._leases = state, leases
        self._given: dict[WaitingRequest, str] = {}
        self._restoring: dict[str, WaitingRequest] = {}
        self._queue: RestoreQueue | None = None
        self._new_request: RequestFactory | None = None
        leases.on_end = self._lease_ended

    def connect(self, queue: RestoreQueue, new_request: RequestFactory) -> None:
        """Set where restoring requests are queued, and what makes them; before the first request."""
        self._queue, self._new_request = queue, new_request

    # -- requests ------------------------------------------------------------------------------------------------

    def check(self, owner: Owner, consumer: str, options: AcquireOptions) -> None:
        """Check the option ``yield_lease``. Raises NoSuchLease, AccessDenied, InvalidArgs."""
        if not options.yield_lease:
            return
        try:
            lease = self._state.ledger.lease(options.yield_lease)
        except NoSuchLease:
            raise NoSuchLease("option 'yield_lease': no active lease has this id") from None
        if owner.uid not in (0, lease.owner.uid):
            raise AccessDenied("option 'yield_lease': the lease belongs to another user")
        if lease.reservation is not None:
            raise InvalidArgs(
                "option 'yield_lease': a lease without a consumer cannot be given back; its program keeps the memory"
            )
        if lease.consumer == consumer:
            raise InvalidArgs(f"option 'yield_lease': the lease is on {consumer} itself, which needs no second one")

    def own_leases(self, owner: Owner, options: AcquireOptions) -> frozenset[str]:
        """Ids of the leases that the client keeps until its request is decided.

        These are the leases that it names (option ``within``), and those that end only with the systemd service that
        it runs in. Only leases of the same user count, so that no client can name those of others. A request that does
        not wait (timeout 0) keeps nothing for it.
        """
        # Most requests name no lease and come from no service: they need no look at every lease.
        if options.timeout_sec <= 0 or not (options.within or _is_service(owner)):
            return frozenset()
        return frozenset(
            lease.id
            for lease in self._state.ledger.leases.values()
            if lease.owner.uid == owner.uid
            and lease.id != options.yield_lease
            and (lease.id in options.within or _ends_with_service_of(lease, owner))
        )

    def may_wait_for_ancestors(self, entry: WaitingRequest) -> bool:
        """Whether an ancestor of the client's process may hold a lease; then ``add_leases_of`` needs the ancestors."""
        return entry.request.owner.pid > 0 and any(self._leases_of_others(entry))

    def add_leases_of(self, entry: WaitingRequest, ancestors: Collection[int]) -> None:
        """Add the leases that the ancestors of a client's process hold for as long as they are connected.

        Such a process runs a command under its lease and waits for its end, as ``gpumanctl run`` does. Leases on the
        client's own connection do not count: a program with several tasks ends one while another one waits.
        """
        found = {lease.id for lease in self._leases_of_others(entry) if lease.owner.pid in ancestors}
        if found:
            entry.leave_group()  # its decision is no longer that of others
            entry.own_leases |= found

    def _leases_of_others(self, entry: WaitingRequest) -> Iterator[Lease]:
        """Leases on connections of other processes of the same user."""
        owner = entry.request.owner
        for lease in self._state.ledger.leases.values():
            is_other = lease.owner.uid == owner.uid and lease.owner.pid not in (0, owner.pid)
            if (
                lease.lifetime is LeaseLifetime.CONNECTION
                and is_other
                and lease.id != entry.request.options.yield_lease
            ):
                yield lease

    def refresh(self, entry: WaitingRequest) -> None:
        """Note what the request gives back, before it is decided; the lease may have ended, or been given back."""
        entry.gives_back = self.given_back_by(entry.request.options)

    def given_back_by(self, options: AcquireOptions) -> StandingLease | None:
        """The lease that a request with these options gives back; None where it has ended or is given back already."""
        lease = self._state.ledger.leases.get(options.yield_lease) if options.yield_lease else None
        return None if lease is None or lease.yielded else self._state.ledger.standing(lease)

    def deadlock(self, view: View, entry: WaitingRequest, requirement: Requirement) -> WouldDeadlock | None:
        """The error for a request that cannot be granted before its own client's leases end; None where it can."""
        own = self._standing(entry)
        if not own or not _waits_for(view, requirement, list(own.values())):
            return None
        # Of several leases, name one that is enough to block it, if there is one.
        lease_id = next((one for one, lease in own.items() if _waits_for(view, requirement, [lease])), next(iter(own)))
        lease = self._state.ledger.lease(lease_id)
        return WouldDeadlock(decision_messages.waits_for_itself(requirement.consumer, lease_id, lease.public_consumer))

    def is_waited_for_by(self, view: View, entry: WaitingRequest, others: list[Requirement]) -> bool:
        """Whether all these requests wait for leases that the client of this one keeps until it is decided.

        Then its request cannot delay them by going first, and queueing it behind them would be a deadlock.
        """
        own = list(self._standing(entry).values())
        return bool(own) and all(_waits_for(view, one, own) for one in others)

    def _standing(self, entry: WaitingRequest) -> dict[str, StandingLease]:
        leases = self._state.ledger.leases
        active = (leases[one] for one in sorted(entry.own_leases) if one in leases)
        return {lease.id: self._state.ledger.standing(lease) for lease in active if not lease.yielded}

    # -- giving back ---------------------------------------------------------------------------------------------

    def give_back(self, entry: WaitingRequest) -> None:
        """Give back the lease that the request names, since it is being served now."""
        if entry.request.options.yield_lease in self._state.ledger.leases:
            self._given[entry] = entry.request.options.yield_lease
        if entry.gives_back is not None:
            self._leases.give_back(entry.request.options.yield_lease)
            entry.gives_back = None

    async def saved(self, entry: WaitingRequest) -> None:
        """Return when it is on disk that the lease is given back, so that a restart restores it."""
        if entry in self._given:
            await self._leases.save_quietly(self._given[entry])

    def granted(self, entry: WaitingRequest) -> None:
        """Note that the request has its lease, whose end restores the other one."""
        self._given.pop(entry, None)

    def left(self, entry: WaitingRequest) -> None:
        """Note that the request ended without a lease: what it gave back is restored."""
        if lease_id := self._given.pop(entry, ""):
            self._restore_if_unused(lease_id)

    # -- restoring -----------------------------------------------------------------------------------------------

    def restore_unused(self) -> None:
        """Restore leases whose nested lease is over, such as one that did not survive the time without a daemon."""
        for lease in list(self._state.ledger.leases.values()):
            if lease.yielded:
                self._restore_if_unused(lease.id)

    def restored(self, entry: WaitingRequest, place: Devices) -> Lease | None:
        """Give a lease its consumer again, which is resident now; None where the lease has ended meanwhile."""
        self._restoring.pop(entry.restores, None)
        lease = self._state.ledger.leases.get(entry.restores)
        return None if lease is None or not lease.yielded else self._leases.return_yielded(lease.id, place)

    def _lease_ended(self, lease: Lease) -> None:
        entry = self._restoring.pop(lease.id, None)
        if entry is not None and self._queue is not None:
            self._queue.remove(entry)
            entry.done.cancel()
        if lease.yields:
            self._restore_if_unused(lease.yields)

    def _restore_if_unused(self, lease_id: str) -> None:
        leases = self._state.ledger.leases
        lease = leases.get(lease_id)
        is_used = any(one.yields == lease_id for one in leases.values()) or lease_id in self._given.values()
        if lease is None or not lease.yielded or is_used or lease_id in self._restoring:
            return
        assert self._queue is not None, "connect comes first"
        self._queue.background.spawn(self._restore(lease, self._queue))

    async def _restore(self, lease: Lease, queue: RestoreQueue) -> None:
        """Queue a request for the consumer of a lease, and end the lease if that is refused."""
        if not self._is_wanted(lease):
            return
        try:
            entry = self._request_for(lease)
            self._restoring[lease.id] = entry
            queue.add(entry)
            queue.step()
            await asyncio.wait([entry.done])
            if not entry.done.cancelled():
                entry.done.result()
        except ShuttingDown:
            return  # it stays on disk as given back, and the next start restores it
        except GpumandError as error:
            self._restoring.pop(lease.id, None)
            log.warning("lease %s: %s cannot be restored after the nested lease: %s", lease.id, lease.consumer, error)
            self._leases.end_all(lambda one: one.id == lease.id, LeaseEnd.NOT_RESTORED)
            queue.step()

    def _is_wanted(self, lease: Lease) -> bool:
        """Whether the lease is still to be restored: this is called a moment after it was decided."""
        now = self._state.ledger.leases.get(lease.id)
        return now is not None and now.yielded and lease.id not in self._restoring

    def _request_for(self, lease: Lease) -> WaitingRequest:
        assert self._new_request is not None, "connect comes first"
        options = AcquireOptions(
            timeout_sec=MAX_WAIT_SEC, device=lease.device, reason=lease.reason, exclusive=lease.exclusive
        )
        entry = self._new_request(lease.owner, lease.consumer, options)
        entry.restores = lease.id
        entry.request = replace(entry.request, arrived_at=self._leases.granted_at(lease.id, entry.request.arrived_at))
        return entry


def _waits_for(view: View, requirement: Requirement, leases: list[StandingLease]) -> bool:
    """Whether the requirement has to wait although nothing but these leases is active."""
    best = if_only_these_stand(view, leases)
    return decide(best, replace(requirement, gives_back=None)).verdict is Verdict.WAIT


def _ends_with_service_of(lease: Lease, owner: Owner) -> bool:
    """Whether a lease ends with the service that the client runs in.

    A user's manager and session scopes do not count: they contain programs that have nothing to do with each other.
    """
    return lease.lifetime is LeaseLifetime.UNIT and _is_service(owner) and lease.owner.unit == owner.unit


def _is_service(owner: Owner) -> bool:
    return owner.unit.endswith(".service") and not owner.unit.startswith("user@")
