"""Decides when the driver is open: it rests while nothing needs readings, and is released on request.

An open driver keeps a card awake, which costs a laptop hours of battery. So the driver is closed where no consumer is
configured, and where nothing was requested for a while and the card could sleep. A card that sleeps is never woken for
a reading that no request needs: ``power/runtime_status`` is looked at first.
"""

from __future__ import annotations

import logging
from collections.abc import Sized

from gpumand.arbiter.state import ArbiterState
from gpumand.domain.driver_power import DriverPower, DriverState
from gpumand.domain.residency_states import Residency
from gpumand.ports import Driver, DriverHangs

log = logging.getLogger(__name__)

WITHOUT_VRAM = frozenset({Residency.UNLOADED, Residency.FAILED, Residency.UNKNOWN})
"""Residencies of consumers that keep no card awake. A card with a consumer of unknown residency may sleep: it then
holds no memory of it."""

POWER_SEC = 10.0
"""Seconds between looks at the power states of the cards."""


class DriverUse:
    """Takes the readings that no request has asked for, unless the driver should rest.

    Args:
        state: the state of the arbiter, with the driver's state.
        queue: the waiting requests.
        driver: the driver.
    """

    def __init__(self, state: ArbiterState, queue: Sized, driver: Driver) -> None:
        self._state, self._queue, self._driver = state, queue, driver
        self._asked_at = state.clock.monotonic()
        self._power_at = float("-inf")

    def note_request(self) -> None:
        """Note that a client has requested something that may need readings."""
        self._asked_at = self._state.clock.monotonic()

    @property
    def is_open(self) -> bool:
        """Whether readings are taken although no request needs one."""
        return self._state.driver_state is DriverState.OPEN

    @property
    def is_resting(self) -> bool:
        """Whether the driver is closed because nothing needs it."""
        return self._state.driver_state is DriverState.RESTING

    async def sample(self) -> bool:
        """Take the reading of an interval, unless the driver is released or rests; returns whether it was taken."""
        if not await self._should_rest():
            await self._state.sample()
            return self._state.driver_state is DriverState.OPEN
        if self._state.driver_state is DriverState.OPEN:
            await self._rest()
        return False

    async def refresh_for_status(self) -> None:
        """Take a reading for a client that looks at the status, where that wakes no card and keeps none awake."""
        if self._state.driver_state is not DriverState.RESTING:
            return
        self._power_at = float("-inf")
        power = await self._power()
        if self._state.driver_state is DriverState.RESTING and not power.can_sleep:
            self.note_request()
            await self._state.sample()

    async def _should_rest(self) -> bool:
        if self._state.driver_state is DriverState.RELEASED:
            return True
        rest_after_sec = self._state.settings.gpu.idle_release_sec
        if rest_after_sec <= 0 or self._is_needed():
            return False
        is_idle = self._state.clock.monotonic() - self._asked_at >= rest_after_sec
        if not is_idle and self.is_open and self._state.sampled_at > float("-inf"):
            return False  # no card sleeps while its driver is open
        power = await self._power()
        # During the await a request may have arrived.
        return not self._is_needed() and (power.is_asleep or (is_idle and self._may_rest(power)))

    def _may_rest(self, power: DriverPower) -> bool:
        return power.can_sleep or not self._state.settings.consumers

    async def _power(self) -> DriverPower:
        """The power states of the cards, looked at rarely: files of the kernel are read in a thread."""
        now = self._state.clock.monotonic()
        if now - self._power_at >= POWER_SEC:
            self._power_at = now
            self._state.set_driver_power(await self._driver.power())
        return self._state.driver_power

    def _is_needed(self) -> bool:
        """Whether a request, a lease, a job or a consumer in VRAM needs readings."""
        ledger = self._state.ledger
        consumers = ledger.consumers.values()
        return bool(self._queue or ledger.jobs or ledger.leases) or any(
            one.residency not in WITHOUT_VRAM for one in consumers
        )

    async def _rest(self) -> None:
        self._state.driver_state = DriverState.RESTING
        await self._state.readings.ended()  # one that is running would open the driver again
        if self._state.driver_state is not DriverState.RESTING:
            return
        try:
            await self._driver.release_driver()
        except DriverHangs as hang:
            log.info("the driver cannot be closed while nothing needs it: %s", hang)
            self._state.driver_state = DriverState.OPEN
            return
        if self._state.driver_state is DriverState.RESTING:
            log.info("the GPU driver is closed: nothing needs it. A request opens it again")
