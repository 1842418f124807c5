"""Implements the VramSource for NVIDIA's driver: initialises NVML, reads it, and recovers from its failures.

``nvml_library`` calls the library, ``nvml_device`` reads one device, ``nvml_mig`` finds MIG instances. This module has
the session, which runs in the library's own thread, and the source, which the daemon awaits.
"""

from __future__ import annotations

import logging

from gpumand.domain.device import Reading, Sample
from gpumand.ports import Clock
from gpumand.vram.call_thread import CallHangs, CallThread, ThreadClosed
from gpumand.vram.nvml_device import Device, find_devices, read_device
from gpumand.vram.nvml_library import CallFailed, LibraryFailed, NvmlLibrary
from gpumand.vram.reading_time import ReadingTime, without_readings

log = logging.getLogger(__name__)

FIRST_RETRY_SEC = 1.0
LAST_RETRY_SEC = 60.0


class Backoff:
    """Delays retries: 1 s after the first failure, twice as long after each further one, at most 60 s."""

    def __init__(self) -> None:
        self._delay_sec = 0.0
        self._retry_at = 0.0

    def due(self, now: float) -> bool:
        """Return whether the delay is over."""
        return now >= self._retry_at

    @property
    def waiting(self) -> bool:
        """Whether the last attempt failed."""
        return self._delay_sec > 0

    def failed(self, now: float) -> None:
        """Record a failure and double the delay."""
        self._delay_sec = min(max(self._delay_sec * 2, FIRST_RETRY_SEC), LAST_RETRY_SEC)
        self._retry_at = now + self._delay_sec

    def succeeded(self) -> None:
        """Reset the delay."""
        self._delay_sec = self._retry_at = 0.0


class NvmlSession:
    """The state of the library between readings; all methods run in the library's thread unless noted otherwise."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._library = NvmlLibrary()
        self._backoff = Backoff()
        self._devices: tuple[Device, ...] = ()
        self._gpus = 0
        self._mig_possible = False
        self._open = False
        self._must_reopen = False
        self._last_error = ""

    def reopen(self) -> None:
        """Make the next reading reinitialise the library without delay; may be called from any thread."""
        self._must_reopen = True

    def read(self) -> Reading:
        """Read every device, after initialising the library if necessary. Failures are reported in the Reading."""
        reading_time = ReadingTime.now(self._clock)
        if self._must_reopen:
            self._must_reopen = False
            # Handles are invalid after a suspend. The delay is reset, because earlier failures say nothing about now.
            self.close()
            self._backoff.succeeded()
        if not self._open and not self._backoff.due(reading_time.monotonic):
            return Reading(error=self._last_error)
        try:
            self._ensure_open(reading_time.monotonic)
            samples = tuple(read_device(self._library, device, reading_time) for device in self._devices)
        except LibraryFailed as failure:
            return self._failed(str(failure), reading_time.monotonic)
        self._record_result(samples, reading_time.monotonic)
        return Reading(samples)

    @property
    def needs_new_process(self) -> bool:
        """Whether the driver was upgraded and its new library cannot be loaded into this process."""
        return self._library.needs_new_process

    def close(self) -> None:
        """Shut the library down."""
        self._open = False
        self._library.stop()

    def _ensure_open(self, now: float) -> None:
        if self._open and self._must_reinitialise(now):
            self.close()
        if not self._open:
            self._library.start()
            self._open = True
            self._find_devices(self._count())
        elif self._mig_possible:
            # MIG instances can be created and destroyed while the driver runs, and NVML does not report such changes.
            self._find_devices(self._gpus)

    def _must_reinitialise(self, now: float) -> bool:
        """Return whether a failed device is due for a retry, or the number of GPUs has changed."""
        # NVML notices such changes only when it is initialised again.
        if self._backoff.waiting and self._backoff.due(now):
            return True
        return self._count() != self._gpus

    def _find_devices(self, gpus: int) -> None:
        before = {device.index: device for device in self._devices}
        found = [find_devices(self._library, gpu, before) for gpu in range(gpus)]
        self._gpus, self._mig_possible = gpus, any(one.mig_possible for one in found)
        self._devices = tuple(device for one in found for device in one.devices)
        if not self._devices:
            mig_reason = "MIG is enabled on all GPUs, but no MIG instance exists: create one, or disable MIG"
            raise LibraryFailed("no-devices", mig_reason if gpus else "the driver lists no GPU")

    def _count(self) -> int:
        try:
            return int(self._library.call("nvmlDeviceGetCount"))
        except CallFailed as failure:
            raise LibraryFailed("nvml-error", str(failure)) from failure

    def _failed(self, error: str, now: float) -> Reading:
        if error != self._last_error:  # the same failure repeats with every attempt and is logged once
            log.warning("NVML: %s", error)
        self._last_error = error
        self.close()
        self._backoff.failed(now)
        return Reading(error=error)

    def _record_result(self, samples: tuple[Sample, ...], now: float) -> None:
        """Reset or extend the delay until the next initialisation after a successful reading."""
        if self._last_error:
            log.info("NVML: readings are available again; devices: %d", len(samples))
        self._last_error = ""
        # If one device fails, the library is reinitialised at growing intervals; the other devices are read meanwhile.
        if not any(needs_reinitialisation(sample) for sample in samples):
            self._backoff.succeeded()
        elif self._backoff.due(now):
            self._backoff.failed(now)


def needs_reinitialisation(sample: Sample) -> bool:
    """Return whether reinitialising the library may repair a failed device."""
    # A device without memory information of its own (unified memory) is not a failure that could be repaired.
    return bool(sample.error) and not sample.error.startswith("memory-info-not-supported")


class NvmlSource:
    """A VramSource that reads NVML. Create one per process, because NVML's state is global to the process."""

    name: str = "nvml"

    def __init__(self, clock: Clock, *, call_timeout_sec: float = 5.0) -> None:
        """Create the source; the library is loaded by the first reading.

        Args:
            clock: current time, for samples and back-off.
            call_timeout_sec: real seconds after which a running reading counts as hanging.
        """
        self._clock = clock
        self._thread = CallThread("gpumand-nvml", call_timeout_sec)
        self._session = NvmlSession(clock)
        self._last_samples: tuple[Sample, ...] = ()

    @property
    def progressed_at(self) -> float:
        """Monotonic time in seconds at which the library's thread last started or finished a reading."""
        return self._thread.progressed_at

    @property
    def busy_sec(self) -> float:
        """Seconds that the current reading has been running; 0.0 if there is none."""
        return self._thread.busy_sec

    @property
    def needs_new_process(self) -> bool:
        """Whether the driver was upgraded and its new library cannot be loaded into this process."""
        return self._session.needs_new_process

    @property
    def thread_alive(self) -> bool:
        """Whether the library's thread runs; also True before the first reading and after ``close``."""
        return self._thread.alive

    async def read(self) -> Reading:
        """Take a fresh sample of every device; see VramSource."""
        try:
            reading = await self._thread.call(self._session.read)
        except CallHangs as hang:
            return self._without_readings(f"nvml-hangs: a driver call has not returned for {hang.seconds:.0f} s")
        except ThreadClosed as error:
            return self._without_readings(f"nvml-error: no thread for driver calls: {error}")
        if reading.error:
            return self._without_readings(reading.error)
        self._last_samples = reading.devices
        return reading

    def reopen(self) -> None:
        """Make the next reading reinitialise the library; does not wait for a call that hangs. See VramSource."""
        self._session.reopen()

    async def close(self) -> None:
        """Shut the library down, unless a call hangs."""
        try:
            await self._thread.call(self._session.close)
        except (CallHangs, ThreadClosed):
            log.debug("NVML was not shut down, because its thread hangs or is closed")
        self._thread.close()

    def _without_readings(self, error: str) -> Reading:
        # Devices that were read before stay listed, so that configuration that refers to them stays valid.
        reading_time = ReadingTime.now(self._clock)
        return Reading(tuple(without_readings(sample, error, reading_time) for sample in self._last_samples), error)
