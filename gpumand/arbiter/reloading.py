"""Reloads the configuration while leases, jobs and waiting requests continue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from gpumand.arbiter.learning import LearningRecorder
from gpumand.arbiter.reconciler import Reconciler
from gpumand.arbiter.scheduler import Scheduler
from gpumand.arbiter.state import ArbiterState
from gpumand.domain.consumer import Settings
from gpumand.domain.gpu_settings import GpuSettings

log = logging.getLogger(__name__)

REMOVED = "it was removed from the configuration while it was being loaded. Request another consumer, or add it again"


class Reloading:
    """Performs reloads one after the other, so that the configuration read last is the one in force.

    Args:
        load_settings: reads the configuration again; raises ConfigInvalid.
        units_changed: set after a reload, since other units may have to be watched.
    """

    def __init__(
        self,
        state: ArbiterState,
        learning: LearningRecorder,
        reconciler: Reconciler,
        scheduler: Scheduler,
        load_settings: Callable[[], Awaitable[Settings]],
        units_changed: asyncio.Event,
    ) -> None:
        self._state, self._learning, self._reconciler, self._scheduler = state, learning, reconciler, scheduler
        self._load_settings, self._units_changed = load_settings, units_changed
        self._lock = asyncio.Lock()

    async def reload(self) -> None:
        """Read the configuration and apply it. Raises ConfigInvalid, and then nothing changes.

        A reload completes even if its caller disconnects: a half-applied configuration must not stay in force.
        """
        await self._scheduler.background.run_to_completion(self._reload())

    async def _reload(self) -> None:
        async with self._lock:
            # Taken before the files are read: a file changed during the read then counts as changed since the reload.
            read_usec = self._state.clock.realtime_usec()
            self._apply(await self._load_settings(), read_usec)

    def _apply(self, settings: Settings, read_usec: int) -> None:
        # No await in this method: no decision may see half of the old and half of the new configuration.
        former, self._state.settings = self._state.settings, settings
        self._state.configured_usec = read_usec
        if _devices_of(former.gpu) != _devices_of(settings.gpu):
            self._state.ledger.expect_new_source()
        self._state.ledger.configure(settings.scheduler, settings.consumers.values())
        self._learning.forget_changed(former.consumers)
        self._learning.warn_of_unknown_footprints()
        self._scheduler.set_aging(settings.scheduler.aging_sec)
        self._reconciler.forget_obsolete_observations()
        self._units_changed.set()
        count = len(settings.consumers)
        log.info("configuration reloaded: %d %s", count, "consumer" if count == 1 else "consumers")
        self._break_off_removed()
        self._scheduler.step()

    def _break_off_removed(self) -> None:
        """Cancel loads of consumers that are not configured any more: they get no new lease, and their units stop."""
        ledger = self._state.ledger
        for name in {job.consumer for job in ledger.jobs.values()} - self._state.settings.consumers.keys():
            consumer = ledger.consumers.get(name)
            is_left = consumer is not None and consumer.spec.reservation is None and not consumer.leases
            if is_left and not any(name in job.evicting for job in ledger.jobs.values()):
                self._scheduler.break_off_load(name, REMOVED)


def _devices_of(gpu: GpuSettings) -> GpuSettings:
    """The settings on which it depends which devices there are."""
    return replace(gpu, sample_interval_sec=0.0, total_mib=None)
