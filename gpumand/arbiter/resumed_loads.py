"""Loads that were running when the daemon last stopped."""

from __future__ import annotations

import logging

from gpumand.arbiter.new_requests import NewRequests
from gpumand.arbiter.scheduler import Scheduler
from gpumand.arbiter.state import ArbiterState
from gpumand.domain.device import Devices
from gpumand.ports import Store

log = logging.getLogger(__name__)


class ResumedLoads:
    """Continues loads that an earlier daemon process started; the servers of the consumers went on loading meanwhile.

    Args:
        state: the arbiter's state.
        scheduler: starts the loads.
        requests: makes their requests.
        store: has the loads that were running.
    """

    def __init__(self, state: ArbiterState, scheduler: Scheduler, requests: NewRequests, store: Store) -> None:
        self._state, self._scheduler, self._requests, self._store = state, scheduler, requests, store

    async def resume_all(self) -> None:
        """Continue every load that was running."""
        for name, (devices, began_usec) in (await self._store.read_loads()).items():
            await self._resume(name, devices, began_usec)

    async def _resume(self, name: str, devices: Devices, began_usec: int) -> None:
        """Continue one load.

        The load route is called again and joins the load in progress. A load whose ``load_timeout_sec`` has passed is
        considered finished.

        Args:
            name: the consumer.
            devices: the devices it was being loaded on.
            began_usec: when the load started, CLOCK_REALTIME in microseconds.
        """
        consumer, now_usec = self._state.ledger.consumers.get(name), self._state.clock.realtime_usec()
        # abs: the wall clock may have been set back since. Then the load counts as old rather than as endless.
        left_sec = 0.0 if consumer is None else consumer.spec.load_timeout_sec - abs(now_usec - began_usec) / 1e6
        if left_sec <= 0 or not devices or not self._state.ledger.jobs.keys().isdisjoint(devices):
            await self._drop(name)
            return
        log.info("consumer %s was loading when gpumand last stopped: continuing its load", name)
        self._scheduler.resume(self._requests.make_load(name, left_sec), devices)

    async def _drop(self, name: str) -> None:
        """Delete the record of a load. One that stays is looked at again at the next start, so it prevents none."""
        try:
            await self._store.drop_load(name)
        except OSError as error:
            log.error("the record of the load of %s cannot be deleted from disk: %s", name, error)
