"""Names of the owners of leases, looked up in the background."""

from __future__ import annotations

from collections.abc import Sequence

from gpumand.arbiter.leases import Leases
from gpumand.arbiter.scheduler import Scheduler
from gpumand.domain.lease import Lease
from gpumand.ports import OwnerPresence


class OwnerLookups:
    """Finds the names of owners that are not known yet: a slow user directory must not delay a grant."""

    def __init__(self, leases: Leases, scheduler: Scheduler, owners: OwnerPresence) -> None:
        self._leases, self._scheduler, self._owners = leases, scheduler, owners

    def start(self, leases: Sequence[Lease]) -> None:
        """Look the owners of these leases up, one after the other, without waiting for them here."""
        self._scheduler.background.spawn(self._look_up_all(leases))

    async def _look_up_all(self, leases: Sequence[Lease]) -> None:
        for lease in leases:
            if await self._leases.name_owner(lease, self._owners):
                self._scheduler.step()  # the reasons of waiting requests name the owner
