"""Releases the GPU driver for an administrator, who resets a GPU or loads another driver, and takes it again.

Between the two, requests wait with a message, nothing is loaded or evicted, and no reading is taken. The release ends
by a call, by its duration, and, if it is bound to its client, when that client leaves the bus. It does not survive the
daemon: a daemon that starts takes the driver.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from gpumand.arbiter.scheduler import Scheduler
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.timeouts import finished_within
from gpumand.arbiter.work_gate import WorkGate
from gpumand.domain.device import ProcessUse
from gpumand.domain.driver_need import WITHOUT_VRAM
from gpumand.domain.driver_power import DriverState
from gpumand.domain.driver_release import ReleaseOptions, ReleaseReport
from gpumand.domain.errors import Busy, DeviceUnavailable, TimedOut
from gpumand.domain.lease import Owner
from gpumand.ports import Driver, DriverHangs

log = logging.getLogger(__name__)

MAX_NAMED = 5


class DriverRelease:
    """The release of the driver that is in force, if any.

    Args:
        state: the state of the arbiter.
        gate: holds requests back during the release.
        scheduler: decides the requests again afterwards.
        driver: the driver.
    """

    def __init__(self, state: ArbiterState, gate: WorkGate, scheduler: Scheduler, driver: Driver) -> None:
        self._state, self._gate, self._scheduler, self._driver = state, gate, scheduler, driver
        self._number = 0
        self._ended_because = ""
        self._bound_to = ""
        self._ended: Callable[[], None] | None = None

    async def release(
        self, owner: Owner, options: ReleaseOptions, ended: Callable[[], None] | None = None
    ) -> ReleaseReport:
        """Close the driver and keep it closed.

        Args:
            owner: the client.
            options: see ReleaseOptions.
            ended: called when the release ends, or fails.

        Raises:
            Busy: consumers are in VRAM or leased, the driver is released already, or the release was ended meanwhile.
            TimedOut: a load or an eviction did not end in time.
            DeviceUnavailable: the driver does not answer.
        """
        if self._gate.driver_released:
            raise Busy(f"{self._gate.driver_released}. A second release is not possible.")
        self._check_unused(options)
        self._number += 1
        number = self._number
        # Until the driver is closed, every release ends with its client: that of one that has given up helps no client.
        self._bound_to, self._ended = owner.bus_name, ended
        user = owner.user or f"uid {owner.uid}"
        self._gate.driver_released = (
            f"the GPU driver is released by {user} for at most {options.duration_sec:g} s. "
            "Take it again: gpumanctl gpu take"
        )
        try:
            holders = await self._close(number, options)
        except BaseException:
            if number == self._number:
                self.take("the release has failed")
            raise
        self._bound_to = owner.bus_name if options.bound else ""
        log.warning("%s", self._gate.driver_released)
        self._state.publish_changes()  # no reading follows that would announce it
        self._scheduler.background.spawn(self._take_later(number, options.duration_sec))
        return ReleaseReport(self._state.clock.realtime_usec() + int(options.duration_sec * 1e6), holders)

    async def _close(self, number: int, options: ReleaseOptions) -> tuple[ProcessUse, ...]:
        """Wait until no job runs, and close the driver; returns the processes that use a GPU."""
        self._scheduler.step()  # waiting requests get their message
        await self._wait_for_jobs(number, options.timeout_sec)
        if self._state.driver_state is DriverState.OPEN:
            await self._state.sample()
            self._check_in_force(number)
        self._check_unused(options)
        holders = tuple(one for sample in self._state.ledger.devices.values() for one in sample.processes)
        self._state.driver_state = DriverState.RELEASED  # no reading begins from now on
        await self._state.readings.ended()
        self._check_in_force(number)
        try:
            await self._driver.release_driver()
        except DriverHangs as hang:
            raise DeviceUnavailable(f"the driver cannot be closed: {hang}. Try again when it answers.") from hang
        self._check_in_force(number)
        return holders

    def _check_in_force(self, number: int) -> None:
        """Raise Busy if the release was ended during an await: the driver is in use again."""
        if number != self._number or not self._gate.driver_released:
            raise Busy(f"the release was ended before the driver was closed: {self._ended_because}. Try again.")

    async def _wait_for_jobs(self, number: int, timeout_sec: float) -> None:
        """Wait for loads and evictions that are running; the gate lets no other one start. Raises TimedOut."""
        clock = self._state.clock
        deadline = clock.monotonic() + timeout_sec
        while jobs := self._state.ledger.jobs:
            if clock.monotonic() >= deadline:
                names = ", ".join(sorted({job.consumer for job in jobs.values()}))
                raise TimedOut(
                    f"timed out after {timeout_sec:g} s waiting for the load or eviction of {names}. "
                    "Wait longer with option 'timeout_usec'."
                )
            await finished_within(clock, self._scheduler.next_step(), deadline - clock.monotonic())
            self._check_in_force(number)

    def _check_unused(self, options: ReleaseOptions) -> None:
        """Raise Busy while consumers are in VRAM or leased: they would keep the driver open themselves."""
        ledger = self._state.ledger
        if options.force:
            return
        if reservations := [one for one in ledger.leases.values() if one.reservation is not None]:
            raise Busy(
                f"VRAM is reserved by lease {reservations[0].id}. Release it first: gpumanctl release "
                f"{reservations[0].id}, or use the option 'force'."
            )
        in_use = [one.name for one in ledger.consumers.values() if one.leases or one.residency not in WITHOUT_VRAM]
        if in_use:
            names = sorted(in_use)[:MAX_NAMED]
            more = f" and {len(in_use) - MAX_NAMED} more" if len(in_use) > MAX_NAMED else ""
            raise Busy(
                f"consumers use the GPU: {', '.join(names)}{more}. Evict them first (gpumanctl evict {names[0]}), "
                "or use the option 'force'."
            )

    async def _take_later(self, number: int, seconds: float) -> None:
        await self._state.clock.sleep(seconds)
        if number == self._number:
            self.take("its duration is over")

    def client_left(self, bus_name: str) -> None:
        """End a release that is bound to a client that has left the bus, or that is still waiting for its jobs."""
        if bus_name and bus_name == self._bound_to:
            self.take("its client has left")

    def take(self, why: str = "as requested") -> bool:
        """End the release: requests are served again, on new readings. Returns whether the driver was released."""
        if not self._gate.driver_released:
            return False
        self._number += 1
        self._ended_because = why
        ended, self._ended, self._bound_to = self._ended, None, ""
        self._gate.driver_released, self._state.driver_state = "", DriverState.OPEN
        log.info("the GPU driver is taken again: %s", why)
        self._state.invalidate_readings()
        self._scheduler.require_new_readings()
        self._scheduler.readings.request()
        self._scheduler.step()
        if ended is not None:
            ended()
        return True
