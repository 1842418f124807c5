"""States of systemd units and containers: which ones are watched, and what follows from a new state."""

from __future__ import annotations

import contextlib
import logging

from gpumand.arbiter.driver_use import DriverUse
from gpumand.arbiter.leases import Leases
from gpumand.arbiter.observations import DOWN
from gpumand.arbiter.reconciler import Reconciler
from gpumand.arbiter.scheduler import Scheduler
from gpumand.arbiter.state import ArbiterState
from gpumand.domain.consumer import UnitState
from gpumand.domain.container import service_of
from gpumand.domain.lease import Lease, LeaseLifetime
from gpumand.ports import UnitFailed, UnitManager

log = logging.getLogger(__name__)


class UnitStates:
    """Records the states of units, and reads them where no signal is to be expected.

    Args:
        state: the arbiter's state.
        reconciler: updates the residency of consumers.
        leases: ends the leases that are bound to a unit.
        scheduler: decides the waiting requests on the new state.
        driver_use: says whether the GPU driver is open.
        units: systemd and the container engines.
    """

    def __init__(
        self,
        state: ArbiterState,
        reconciler: Reconciler,
        leases: Leases,
        scheduler: Scheduler,
        driver_use: DriverUse,
        units: UnitManager,
    ) -> None:
        self._state, self._reconciler, self._leases = state, reconciler, leases
        self._scheduler, self._driver_use, self._units = scheduler, driver_use, units

    def record(self, unit: UnitState) -> None:
        """Record the state of a unit, from a systemd signal or a query."""
        is_news = self._reconciler.record_unit(unit)
        self._look_for_containers_of(unit)
        self._leases.end_for_unit(unit)
        # Not for each of the thousands of inactive units that are read every minute.
        if is_news and self._driver_use.is_open:
            self._scheduler.readings.request()  # its memory may have become free, or its model may have loaded
        self._scheduler.step()

    async def watch_all(self) -> None:
        """Subscribe to the units of all consumers and of all leases bound to a unit. Raises UnitFailed."""
        specs = self._state.settings.consumers.values()
        units = {service for spec in specs for service in (spec.unit, service_of(spec.controlled_container)) if service}
        units |= self._leases.leased_units()
        await self._units.watch(sorted(units), self.record)

    async def watch_owner(self, lease: Lease) -> None:
        """Watch the unit that a lease is bound to, before its client is notified of the grant.

        The state is also requested once, since the unit may have stopped before the watch was in place.
        """
        if lease.lifetime is LeaseLifetime.UNIT:
            try:
                await self.watch_all()
                self.record(await self._units.state(lease.owner.unit))
            except UnitFailed as failed:
                log.warning(
                    "lease %s is bound to %s, whose state cannot be read: %s", lease.id, lease.owner.unit, failed
                )

    def read_after_load(self, consumer: str) -> None:
        """Read the unit of a consumer after its load: states announced before do not count, and none may follow."""
        spec = self._state.settings.consumers.get(consumer)
        if spec is not None and spec.service:
            self._scheduler.background.spawn(self._read(spec.service))

    def _look_for_containers_of(self, unit: UnitState) -> None:
        """Read the containers of consumers whose unit has ended: ``docker run`` may have left them running."""
        if unit.activity not in DOWN:
            return
        for consumer in self._reconciler.services.consumers_in(unit.unit):
            spec = self._state.settings.consumers.get(consumer.name)
            if spec is not None and spec.unit == unit.unit and spec.controlled_container:
                self._scheduler.background.spawn(self._read(service_of(spec.controlled_container)))

    async def _read(self, service: str) -> None:
        with contextlib.suppress(UnitFailed):
            self.record(await self._units.state(service))
