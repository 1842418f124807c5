"""Keeps this host in the fleet: joins, renews the lease, publishes the row, and joins again after a loss."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import StrEnum

from gpumand.fleet.clock import Clock
from gpumand.fleet.fence import Fence
from gpumand.fleet.publisher import RowPublisher
from gpumand.fleet.rows import HostRow
from gpumand.fleet.store import Denied, FleetStore, Membership, MembershipLost, StoreError

RENEW_SEC = 3.0
"""Period of renewals; a third of the lease's time to live where that is shorter."""

RETRY_SEC = 1.0
REJOIN_SEC = 0.2
DENIED_RETRY_SEC = 15.0
"""Delay after a refusal: only an administrator can change it, by a new role or certificate."""

LOG = logging.getLogger(__name__)


class MemberState(StrEnum):
    """Whether this host is in the fleet."""

    JOINING = "joining"
    JOINED = "joined"
    UNAVAILABLE = "unavailable"
    DENIED = "denied"


class Member:
    """One host's membership.

    Args:
        store: the store.
        clock: clock that counts time spent suspended.
        row: the first row of the host.
        changed: called after every change of ``state``.
    """

    def __init__(
        self, store: FleetStore, clock: Clock, row: HostRow, changed: Callable[[], None] = lambda: None
    ) -> None:
        self.fence = Fence(clock)
        self.state = MemberState.JOINING
        self.reason = ""
        self._store = store
        self._clock = clock
        self._publisher = RowPublisher(store, clock, row)
        self._changed = changed
        self._ttl_sec = 0.0

    @property
    def problem(self) -> str:
        """Why other hosts may not know the state of this host, for people; "" = they know it."""
        return self.reason or self._publisher.problem

    @property
    def row(self) -> HostRow:
        """The newest row of this host, which other hosts may poll."""
        return self._publisher.row

    def publish(self, row: HostRow) -> None:
        """Publish a row if it differs from the last one; its epoch and seq are assigned here."""
        self._publisher.offer(row)

    async def run(self) -> None:
        """Stay in the fleet until cancelled. Never raises for a failure of the store."""
        while True:
            try:
                await self._stay(await self._join())
            except StoreError as error:
                self._failed(error)
                await self._clock.sleep(_delay_sec(error))

    async def leave(self) -> None:
        """End the membership at once; call it after ``run`` was cancelled. Raises StoreError."""
        self.fence.drop()
        await self._store.leave()

    async def _join(self) -> Membership:
        self.fence.drop()  # joining ends the earlier lease, and the unique keys with it
        membership = await self._store.join(self._publisher.row)
        self._ttl_sec = membership.ttl_sec
        self._publisher.joined(membership.epoch)
        self.fence.joined(membership.sent, membership.ttl_sec)
        self._set(MemberState.JOINED, "")
        return membership

    async def _stay(self, membership: Membership) -> None:
        """Renew and publish, in two tasks, so that a write that hangs does not delay a renewal.

        Raises MembershipLost and Denied.
        """
        tasks = [
            asyncio.create_task(self._renew_forever(membership.sent)),
            asyncio.create_task(self._publisher.run()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _renew_forever(self, sent: float) -> None:
        period_sec = min(RENEW_SEC, self._ttl_sec / 3)
        while True:
            await self._clock.sleep(sent + period_sec - self._clock.boottime())
            sent = self._clock.boottime()
            try:
                await self._renew(sent)
            except (MembershipLost, Denied):
                raise
            except StoreError as error:
                self._failed(error)
                sent += min(RETRY_SEC, period_sec) - period_sec

    async def _renew(self, sent: float) -> None:
        await self._store.renew()
        self.fence.renewed(sent, self._ttl_sec)
        self._set(MemberState.JOINED, "")
        self._publisher.refresh()

    def _failed(self, error: StoreError) -> None:
        if isinstance(error, MembershipLost):
            self.fence.drop()
        self._set(MemberState.DENIED if isinstance(error, Denied) else MemberState.UNAVAILABLE, str(error))

    def _set(self, state: MemberState, reason: str) -> None:
        if (state, reason) == (self.state, self.reason):
            return
        is_new = state is not self.state  # each attempt can fail for another reason, which status shows
        self.state, self.reason = state, reason
        if is_new and state is MemberState.JOINED:
            LOG.info("this host is in the fleet")
        elif is_new:
            LOG.warning("this host is not sure of its place in the fleet: %s", reason)
        self._changed()


def _delay_sec(error: StoreError) -> float:
    """Seconds until the host tries to join again."""
    if isinstance(error, Denied):
        return DENIED_RETRY_SEC
    return REJOIN_SEC if isinstance(error, MembershipLost) else RETRY_SEC
