"""Decides when the driver is open: it rests while nothing needs readings, and is released on request.

An open driver keeps a card awake, which costs a laptop hours of battery. So the driver is closed where no consumer is
configured, and where nothing was requested for a while and the card could sleep. A card that sleeps is never woken for
a reading that no request needs: ``power/runtime_status`` is looked at first. On a host with other devices beside those
of the driver, it is also closed while only the others are in use.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sized
from typing import Protocol

from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.domain import driver_need
from gpumand.domain.device import Devices, Sample
from gpumand.domain.driver_need import WITHOUT_VRAM
from gpumand.domain.driver_power import DriverPower, DriverState
from gpumand.domain.errors import GpumandError
from gpumand.ports import Driver, DriverHangs

log = logging.getLogger(__name__)

POWER_SEC = 10.0
"""Seconds between looks at the power states of the cards."""

NOTE_EVERY_SEC = 1.0
"""While the driver is open, its last use is noted at most this often."""


class WaitingRequests(Sized, Iterable[WaitingRequest], Protocol):
    """The waiting requests."""


class DriverUse:
    """Takes the readings that no request has asked for, unless the driver should rest.

    Args:
        state: the state of the arbiter, with the driver's state.
        queue: the waiting requests.
        driver: the driver.
    """

    def __init__(self, state: ArbiterState, queue: WaitingRequests, driver: Driver) -> None:
        self._state, self._queue, self._driver = state, queue, driver
        self._asked_at = self._driver_asked_at = state.clock.monotonic()
        self._power_at = float("-inf")
        self._known_samples: Mapping[int, Sample] = {}
        self._known_kept_awake: Devices = ()
        state.driver_rests = self.rests_for_others

    def note_request(self, consumer: str = "", device: str = "") -> None:
        """Note that a client has requested something that may need readings.

        Args:
            consumer: the consumer that it concerns; "" = any.
            device: the devices that the request names.
        """
        self._asked_at = now = self._state.clock.monotonic()
        # With an integrated GPU beside the card, the question below would be a twentieth of the cost of a lease.
        if now - self._driver_asked_at < NOTE_EVERY_SEC and not self._state.resting_devices:
            return
        devices = self._kept_awake()
        if not devices or self._may_use(consumer, device, devices):
            self._driver_asked_at = self._asked_at
            self._wake()

    def rests_for_others(self) -> bool:
        """Whether readings leave out the devices of the driver, since only other devices are in use.

        It is asked before each reading, so that the devices are read as soon as anything needs them.
        """
        if self._state.resting_devices and self._needs_driver(self._state.resting_devices):
            self._driver_asked_at = self._state.clock.monotonic()
            self._wake()
        return bool(self._state.resting_devices)

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
            await self._rest_for_others()
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

    def _kept_awake(self) -> Devices:
        """Return what ``driver_need.kept_awake`` does, which only a reading changes: it replaces the samples."""
        samples = self._state.ledger.devices
        if samples is not self._known_samples:
            self._known_samples, self._known_kept_awake = samples, driver_need.kept_awake(samples)
        return self._known_kept_awake

    def _may_use(self, consumer: str, device: str, devices: Devices) -> bool:
        """Whether a request may lead to any of these devices."""
        try:
            requested = self._state.ledger.resolve_devices(device)
        except GpumandError:
            return True
        return driver_need.may_use(self._state.view(), consumer, requested, devices)

    def _needs_driver(self, devices: Devices) -> bool:
        requests = ((entry.request.consumer, entry.devices) for entry in self._queue)
        return driver_need.is_needed(self._state.view(), self._state.ledger.leases.values(), requests, devices)

    def _wake(self) -> None:
        resting, self._state.resting_devices = self._state.resting_devices, ()
        if resting:
            log.info("the GPU driver is used again")
            self._driver.rest_driver(resting=False)
            # Readings since then do not show its devices, so that no request may be decided on them.
            self._state.sampled_at = min(self._state.device(index).taken_at for index in resting)

    async def _rest_for_others(self) -> None:
        """Close the driver where its cards could sleep, nothing needs them, and other devices are in use."""
        if self._state.resting_devices:
            await self._power()  # for the status
        elif devices := self._unneeded():
            power = await self._power()
            # During the await a request may have arrived.
            if power.can_sleep and self.is_open and devices == self._unneeded():
                await self._close_for_others(devices)

    def _unneeded(self) -> Devices:
        """The devices of the driver if nothing has needed them for a while, and there are others; else ()."""
        rest_after_sec = self._state.settings.gpu.idle_release_sec
        devices = self._kept_awake()
        is_idle = self._state.clock.monotonic() - self._driver_asked_at >= rest_after_sec > 0
        return devices if devices and is_idle and not self._needs_driver(devices) else ()

    async def _close_for_others(self, devices: Devices) -> None:
        self._state.resting_devices = devices
        self._driver.rest_driver(resting=True)
        await self._state.readings.ended()  # one that is running would open the driver again
        if self._state.resting_devices != devices:
            return
        try:
            await self._driver.release_driver()
        except DriverHangs as hang:
            log.info("the driver cannot be closed while only other devices are in use: %s", hang)
            self._driver_asked_at = self._state.clock.monotonic()
            self._wake()
            return
        log.info("the GPU driver is closed: only other devices are in use. A request for its devices opens it again")

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
