"""Requests without a consumer: each adds a reservation to the ledger.

The reservation then waits, is granted and ends like a lease on a consumer.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from gpumand.arbiter.leases import new_lease_id
from gpumand.arbiter.state import ArbiterState
from gpumand.domain.consumer import reservation_spec
from gpumand.domain.errors import GpumandError, InvalidArgs
from gpumand.domain.lease import Owner
from gpumand.domain.request import AcquireOptions
from gpumand.domain.reservation import Reservation
from gpumand.ports import HolderProcesses


class Reservations:
    """Opens and closes the reservations of requests.

    Args:
        state: the arbiter's state.
        holders: identifies the processes of the client.
        new_id: makes lease ids.
    """

    def __init__(self, state: ArbiterState, holders: HolderProcesses, new_id: Callable[[], str] = new_lease_id) -> None:
        self._state, self._holders, self._new_id = state, holders, new_id

    @asynccontextmanager
    async def requested(self, owner: Owner, options: AcquireOptions) -> AsyncIterator[str]:
        """Keep a reservation in the ledger while a request for it is served; a lease keeps it beyond that.

        Yields:
            The name of the reservation.
        """
        holder = await self._holders.identify(owner, options.lifetime)
        # No await between here and the yield: the name must stay unused until it is in the ledger.
        reservation = Reservation(self._unused_id(), options.vram_mib, options.whole_device, holder)
        self._state.ledger.add_reservation(reservation_spec(reservation, self._device_count(options.device)))
        try:
            yield reservation.name
        finally:
            self._state.ledger.drop_reservation(reservation.name, self._state.settings.consumers)

    def _device_count(self, wanted: str) -> int:
        """How many devices the reservation is on. A device that does not exist is an error of the later checks."""
        with contextlib.suppress(GpumandError):
            return max(1, len(self._state.ledger.resolve_devices(wanted)))
        return 1

    def _unused_id(self) -> str:
        """A lease id whose short form no other reservation has."""
        while True:
            lease_id = self._new_id()
            if Reservation(lease_id, 0).name not in self._state.ledger.consumers:
                return lease_id


def check_amount(consumer: str, options: AcquireOptions) -> None:
    """Check that an amount of VRAM is requested if and only if there is no consumer. Raises InvalidArgs."""
    if not consumer and not options.vram_mib and not options.whole_device:
        raise InvalidArgs("an empty consumer name reserves VRAM without a consumer: set option 'vram_mib' or 'all'")
    if options.vram_mib and options.whole_device:
        raise InvalidArgs("options 'vram_mib' and 'all' exclude each other; give one of them")
    if not consumer and options.restore:
        raise InvalidArgs("option 'restore' needs a consumer; a reservation has nothing to load again")
    if consumer and (options.vram_mib or options.whole_device):
        option = "vram_mib" if options.vram_mib else "all"
        raise InvalidArgs(f"option {option!r} needs an empty consumer name; what {consumer} needs is configured")
