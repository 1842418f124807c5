"""Idempotency tokens: a repeated Acquire with the same token from the same owner gets the same lease.

A client whose connection broke during Acquire cannot know whether it holds a lease. It repeats the call with the same
token, and must not wait twice or hold two leases.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

from gpumand.arbiter.leases import Leases
from gpumand.arbiter.scheduler import Scheduler
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.timeouts import finished_within
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.domain.errors import InvalidArgs, NoSuchLease
from gpumand.domain.lease import Lease, Owner, token_key
from gpumand.domain.request import AcquireOptions


class IdempotencyTokens:
    """Finds the lease or the waiting request that an earlier call with the same token led to.

    Args:
        watch_owner_unit: watches the unit that a lease is bound to.
    """

    def __init__(
        self,
        state: ArbiterState,
        scheduler: Scheduler,
        leases: Leases,
        watch_owner_unit: Callable[[Lease], Awaitable[None]],
    ) -> None:
        self._state, self._scheduler, self._leases, self._watch_owner_unit = state, scheduler, leases, watch_owner_unit

    async def lease(self, owner: Owner, consumer: str, options: AcquireOptions) -> Lease | None:
        """The lease of an earlier call with the same token; waits while that call's request waits.

        Returns:
            The lease; None when the token is new or "".

        Raises:
            InvalidArgs (the token was used for another consumer), TimedOut, or the error of the earlier request.
        """
        deadline = self._state.clock.monotonic() + options.timeout_sec
        while options.token:
            lease = self._state.ledger.lease_by_token(owner, options.lifetime, options.token)
            pending = self._waiting(owner, options)
            first_consumer = (
                lease.consumer if lease is not None else pending.request.consumer if pending is not None else consumer
            )
            if not self._is_same(first_consumer, consumer):
                # A token identifies one call; using it for something else is an error of the client.
                raise InvalidArgs(f"the token was already used for {first_consumer}; use a new one for {consumer}")
            if lease is not None:
                # The earlier caller may disconnect while the lease is written again, and its lease ends with it. Then
                # look again: the token is new now, or another call is using it.
                with contextlib.suppress(NoSuchLease):
                    return await self._share(lease)
                continue
            if pending is None:
                return None
            if not await finished_within(self._state.clock, pending.done, deadline - self._state.clock.monotonic()):
                raise pending.timed_out(options.timeout_sec)
            if not pending.done.cancelled() and (error := pending.done.exception()) is not None:
                raise error
        return None

    def _is_same(self, first: str, second: str) -> bool:
        """Whether two calls request the same: one consumer, or reservations of the same amount."""
        amounts = [self._amount(name) for name in (first, second)]
        return first == second or (amounts[0] is not None and amounts[0] == amounts[1])

    def _amount(self, name: str) -> tuple[int, bool] | None:
        """The amount that a reservation is for; None for a consumer."""
        consumer = self._state.ledger.consumers.get(name)
        reservation = None if consumer is None else consumer.spec.reservation
        return None if reservation is None else (reservation.vram_mib, reservation.whole_device)

    async def _share(self, lease: Lease) -> Lease:
        """Return a lease to a second caller, on disk and watched like the first time. Raises HostError, NoSuchLease."""
        await self._leases.ensure_saved(lease)
        await self._watch_owner_unit(lease)
        self._leases.require_active(lease)
        self._leases.shared.add(lease.id)
        return lease

    def _waiting(self, owner: Owner, options: AcquireOptions) -> WaitingRequest | None:
        key = token_key(owner, options.lifetime, options.token)
        for entry in self._scheduler:
            entry_options, request = entry.request.options, entry.request
            if entry_options.token and token_key(request.owner, entry_options.lifetime, entry_options.token) == key:
                return entry
        return None
