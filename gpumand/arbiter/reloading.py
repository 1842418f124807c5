"""Putting another configuration in force while everything goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from gpumand.arbiter.learning import LearningRecorder
from gpumand.arbiter.reconciler import Reconciler
from gpumand.arbiter.scheduler import Scheduler
from gpumand.arbiter.state import ArbiterState
from gpumand.domain.consumer import Settings

log = logging.getLogger(__name__)


class Reloading:
    """Reloads, one after the other: what was read last is in force last.

    Args:
        load_settings: reads the configuration anew; raises ConfigInvalid.
        units_changed: told that other units matter now.
    """

    def __init__(
        self,
        arbiter_state: ArbiterState,
        measuring: LearningRecorder,
        facts: Reconciler,
        scheduler: Scheduler,
        load_settings: Callable[[], Awaitable[Settings]],
        units_changed: asyncio.Event,
    ) -> None:
        self._books, self._measuring, self._facts, self._desk = arbiter_state, measuring, facts, scheduler
        self._load_settings, self._units_changed = load_settings, units_changed
        self._turn = asyncio.Lock()

    async def reload(self) -> None:
        """Read the configuration and put it in force. Raises ConfigInvalid, changing nothing.

        Done to its end, whoever asked and left: half of a configuration must not stay in force.
        """
        await self._desk.beside.to_its_end(self._reload())

    async def _reload(self) -> None:
        async with self._turn:
            read_usec = self._books.clock.realtime_usec()
            self._put_in_force(await self._load_settings(), read_usec)

    def _put_in_force(self, settings: Settings, read_usec: int) -> None:
        former, self._books.settings = self._books.settings, settings
        self._books.configured_usec = read_usec
        self._books.ledger.configure(settings.scheduler, settings.consumers.values())
        self._measuring.forget_changed(former.consumers)
        self._measuring.warn_of_unknown()
        self._desk.set_aging(settings.scheduler.aging_sec)
        self._facts.forget_missing()
        self._units_changed.set()
        log.info("configuration in force: %d consumers", len(settings.consumers))
        self._desk.step()
