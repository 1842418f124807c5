"""Waits for the results of requests, and drops the requests of clients that leave meanwhile."""

from __future__ import annotations

from gpumand.arbiter.jobs import Jobs
from gpumand.arbiter.leases import Leases
from gpumand.arbiter.nested_leases import NestedLeases
from gpumand.arbiter.owner_lookups import OwnerLookups
from gpumand.arbiter.scheduler import Scheduler
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.timeouts import finished_within
from gpumand.arbiter.unit_states import UnitStates
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.domain.errors import GpumandError
from gpumand.domain.lease import Lease, LeaseEnd, LeaseLifetime
from gpumand.domain.request_limits import MAX_WAIT_SEC
from gpumand.ports import HolderProcesses

IMMEDIATE_LIMIT_SEC = 10.0
"""Upper limit in seconds for a request with timeout 0: a lazy consumer's health check may answer slowly."""


class RequestWaits:
    """Waits until a queued request is granted, refused or timed out.

    Args:
        state: the arbiter's state.
        scheduler: decides the requests.
        leases: writes granted leases to disk.
        nested: leases that a client of a request holds already.
        jobs: describes the load that a request waited for when it timed out.
        units: watches the units that leases are bound to.
        owner_lookups: finds the names of the owners of leases.
        holders: finds the ancestors of a client's process.
    """

    def __init__(
        self,
        state: ArbiterState,
        scheduler: Scheduler,
        leases: Leases,
        nested: NestedLeases,
        jobs: Jobs,
        units: UnitStates,
        owner_lookups: OwnerLookups,
        holders: HolderProcesses,
    ) -> None:
        self._state, self._scheduler, self._leases, self._nested = state, scheduler, leases, nested
        self._jobs, self._units, self._owner_lookups, self._holders = jobs, units, owner_lookups, holders

    async def result(self, entry: WaitingRequest) -> Lease | None:
        """Wait for the result of a request; when this returns a lease, the lease is on disk and still active.

        Raises:
            GpumandError: exactly one, when the request is refused or the lease has ended already.
        """
        try:
            if entry.is_waiting:
                await self._scheduler.decide_new(entry)
            lease = await self._decision(entry) if entry.is_waiting else entry.done.result()
            if lease is not None:
                # On disk and watched before the client is notified: a lease that a crash forgets must not be in use.
                await self._leases.save(lease)
                if lease.lifetime is LeaseLifetime.UNIT:
                    await self._units.watch_owner(lease)
                # It may have ended (revoked, expired, unit stopped) during the two awaits above.
                self._leases.require_active(lease)
                if not lease.owner.user:
                    self._owner_lookups.start([lease])
        except BaseException as error:
            if isinstance(error, GpumandError) and not entry.is_waiting:
                self._state.publish_changes()  # a refusal; a grant was already announced by the queue pass
            else:
                # The client disconnected (CancelledError) or there was an unexpected error: no caller is left that
                # could release the lease.
                self._abandon(entry)
            raise
        return lease

    async def _decision(self, entry: WaitingRequest) -> Lease | None:
        clock, timeout_sec = self._state.clock, min(entry.request.options.timeout_sec, MAX_WAIT_SEC)
        if entry.is_waiting and timeout_sec <= 0:
            await self._scheduler.decide_immediately(entry)
            timeout_sec = IMMEDIATE_LIMIT_SEC
        # Each branch looks at the request again: it may have been decided during the await before.
        if entry.is_waiting and self._nested.may_wait_for_ancestors(entry):
            self._scheduler.background.spawn(self._find_leases_of_ancestors(entry))
        if entry.is_waiting:
            await finished_within(clock, entry.done, entry.request.arrived_at + timeout_sec - clock.monotonic())
        if entry.is_waiting:
            self._scheduler.remove(entry)
            entry.refuse(entry.timed_out(timeout_sec, self._jobs.describe_load(entry.request.consumer)))
            self._scheduler.step()
        return entry.done.result()

    async def _find_leases_of_ancestors(self, entry: WaitingRequest) -> None:
        """Refuse a request at once that waits for the lease under which its own process runs."""
        ancestors = await self._holders.ancestors(entry.request.owner.pid)
        self._nested.add_leases_of(entry, ancestors)
        if entry.is_waiting and entry.own_leases:
            self._scheduler.step()

    def abandon_requests_of(self, bus_name: str) -> None:
        """Drop the waiting requests of a client that left the bus."""
        for entry in tuple(self._scheduler):
            if entry.request.owner.bus_name == bus_name:
                self._abandon(entry)

    def _abandon(self, entry: WaitingRequest) -> None:
        """Drop a request whose caller will not get an answer, and revoke the lease it may just have been granted."""
        self._scheduler.remove(entry)
        if entry.is_waiting:
            entry.done.cancel()
        elif not entry.done.cancelled() and entry.done.exception() is None and (lease := entry.done.result()):
            # A second call with the same token may already hold this lease; then it must survive its first caller.
            unshared = {lease.id} - self._leases.shared
            self._leases.end_all(lambda one: one.id in unshared, LeaseEnd.OWNER_VANISHED)
        self._scheduler.step()
