"""Requests that are made again: the same token of the same owner leads to the same lease."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable

from gpumand.arbiter.leases import Leases
from gpumand.arbiter.scheduler import Scheduler
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.timeouts import ended
from gpumand.arbiter.waiting_request import Waiting
from gpumand.domain.errors import InvalidArgs, NoSuchLease, TimedOut
from gpumand.domain.lease import Lease, Owner
from gpumand.domain.ledger import token_key
from gpumand.domain.request import AcquireOptions


class IdempotencyTokens:
    """Finds what was asked for before.

    Args:
        bind: has the end of a lease's unit watched.
    """

    def __init__(
        self,
        arbiter_state: ArbiterState,
        scheduler: Scheduler,
        leases: Leases,
        bind: Callable[[Lease], Awaitable[None]],
    ) -> None:
        self._books, self._desk, self._leases, self._bind = arbiter_state, scheduler, leases, bind

    async def lease(self, owner: Owner, consumer: str, options: AcquireOptions) -> Lease | None:
        """The lease that the same token of the same owner leads to, awaited where that request still waits."""
        deadline = self._books.clock.monotonic() + options.timeout_sec
        while options.token:
            lease = self._books.ledger.lease_by_token(owner, options.lifetime, options.token)
            twin = self._waiting(owner, options)
            other = lease.consumer if lease is not None else twin.request.consumer if twin is not None else consumer
            if other != consumer:
                raise InvalidArgs(f"the token was used for {other}, not for {consumer}")
            if lease is not None:
                with contextlib.suppress(NoSuchLease):  # whoever asked first has left meanwhile, and its lease with it
                    return await self._share(lease)
                continue
            if twin is None:
                return None
            if not await ended(self._books.clock, twin.done, deadline - self._books.clock.monotonic()):
                raise TimedOut(f"waited {options.timeout_sec:g} s for {consumer}: {twin.waiting_for}")
            if not twin.done.cancelled() and (error := twin.done.exception()) is not None:
                raise error
        return None

    async def _share(self, lease: Lease) -> Lease:
        """Give a lease out once more, as well kept and watched as the first time. Raises HostError, NoSuchLease."""
        await self._leases.kept(lease)
        await self._bind(lease)
        self._leases.require(lease)
        self._leases.shared.add(lease.id)
        return lease

    def _waiting(self, owner: Owner, options: AcquireOptions) -> Waiting | None:
        wanted = token_key(owner, options.lifetime, options.token)
        for entry in self._desk:
            asked, request = entry.request.options, entry.request
            if asked.token and token_key(request.owner, asked.lifetime, asked.token) == wanted:
                return entry
        return None
