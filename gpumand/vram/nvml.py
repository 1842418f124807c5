"""NVIDIA's driver as a VramSource: initialises, reads, and recovers from whatever the driver does.

Its parts: ``nvml_library`` (the calls), ``nvml_device`` (one device), ``nvml_mig`` (GPUs that are cut into instances),
and here the session that lives in the library's own thread and the source that the daemon awaits.
"""

from __future__ import annotations

import logging

from gpumand.domain.device import Reading, Sample
from gpumand.ports import Clock
from gpumand.vram.call_thread import CallHangs, CallThread, ThreadClosed
from gpumand.vram.nvml_device import Device, find_devices, read_device
from gpumand.vram.nvml_library import CallFailed, LibraryFailed, NvmlLibrary
from gpumand.vram.reading_time import ReadingTime, without_figures

log = logging.getLogger(__name__)

FIRST_RETRY_SEC = 1.0
LAST_RETRY_SEC = 60.0


class Backoff:
    """When to try again: 1 s after the first failure, twice as long after each further one, a minute at most."""

    def __init__(self) -> None:
        self._delay_sec = 0.0
        self._retry_at = 0.0

    def due(self, now: float) -> bool:
        """Whether it is time to try."""
        return now >= self._retry_at

    @property
    def waiting(self) -> bool:
        """Whether the last try failed."""
        return self._delay_sec > 0

    def failed(self, now: float) -> None:
        """Count a failure."""
        self._delay_sec = min(max(self._delay_sec * 2, FIRST_RETRY_SEC), LAST_RETRY_SEC)
        self._retry_at = now + self._delay_sec

    def succeeded(self) -> None:
        """Forget all failures."""
        self._delay_sec = self._retry_at = 0.0


class NvmlSession:
    """The library's state between readings; everything here runs in the library's thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._library = NvmlLibrary()
        self._backoff = Backoff()
        self._devices: tuple[Device, ...] = ()
        self._gpus = 0
        self._may_change = False
        self._open = False
        self._renewing = False
        self._last_error = ""

    def renew(self) -> None:
        """Have the next reading shut the library down and initialise it anew, at once (from any thread)."""
        self._renewing = True

    def read(self) -> Reading:
        """Read every device, initialising first where that is due. Raises nothing that a driver can cause."""
        stamp = ReadingTime.now(self._clock)
        if self._renewing:
            self._renewing = False
            self.close()
            self._backoff.succeeded()
        if not self._open and not self._backoff.due(stamp.monotonic):
            return Reading(error=self._last_error)
        try:
            self._ensure_open(stamp.monotonic)
            samples = tuple(read_device(self._library, device, stamp) for device in self._devices)
        except LibraryFailed as failure:
            return self._failed(str(failure), stamp.monotonic)
        self._note(samples, stamp.monotonic)
        return Reading(samples)

    @property
    def outlived(self) -> bool:
        """Whether the driver was upgraded, and its new library cannot be loaded into this process."""
        return self._library.outlived

    def close(self) -> None:
        """Give the library back."""
        self._open = False
        self._library.stop()

    def _ensure_open(self, now: float) -> None:
        if self._open and self._looks_stale(now):
            self.close()
        if not self._open:
            self._library.start()
            self._open = True
            self._find_devices(self._count())
        elif self._may_change:
            self._find_devices(self._gpus)  # instances come and go while the driver runs, and nothing tells of it

    def _looks_stale(self, now: float) -> bool:
        """A device failed a while ago and may be back, or devices came or went: only a new start sees that."""
        if self._backoff.waiting and self._backoff.due(now):
            return True
        return self._count() != self._gpus

    def _find_devices(self, gpus: int) -> None:
        before = {device.index: device for device in self._devices}
        found = [find_devices(self._library, gpu, before) for gpu in range(gpus)]
        self._gpus, self._may_change = gpus, any(one.may_change for one in found)
        self._devices = tuple(device for one in found for device in one.devices)
        if not self._devices:
            why = "the GPUs are cut by MIG, and no instance is made" if gpus else "the driver lists no GPU"
            raise LibraryFailed("no-devices", why)

    def _count(self) -> int:
        try:
            return int(self._library.call("nvmlDeviceGetCount"))
        except CallFailed as failure:
            raise LibraryFailed("nvml-error", str(failure)) from failure

    def _failed(self, error: str, now: float) -> Reading:
        if error != self._last_error:
            log.warning("NVML: %s", error)
        self._last_error = error
        self.close()
        self._backoff.failed(now)
        return Reading(error=error)

    def _note(self, samples: tuple[Sample, ...], now: float) -> None:
        """A device that fails is looked for again by a new start, ever more seldom, while the others are served."""
        if self._last_error:
            log.info("NVML: works again, %d devices", len(samples))
        self._last_error = ""
        if not any(needs_new_start(sample) for sample in samples):
            self._backoff.succeeded()
        elif self._backoff.due(now):
            self._backoff.failed(now)


def needs_new_start(sample: Sample) -> bool:
    """Whether initialising anew may mend what is wrong with this device."""
    return bool(sample.error) and not sample.error.startswith("memory-info-not-supported")


class NvmlSource:
    """A VramSource over NVML; one per process, because the library's state is the process's."""

    name: str = "nvml"

    def __init__(self, clock: Clock, *, call_timeout_sec: float = 5.0) -> None:
        """Prepare; nothing is loaded before the first read.

        Args:
            clock: time of samples and of back-off.
            call_timeout_sec: real seconds after which a reading under way counts as hanging.
        """
        self._clock = clock
        self._thread = CallThread("gpumand-nvml", call_timeout_sec)
        self._session = NvmlSession(clock)
        self._seen: tuple[Sample, ...] = ()

    @property
    def progressed_at(self) -> float:
        """Monotonic seconds of the last time the library's thread began or finished a reading."""
        return self._thread.progressed_at

    @property
    def busy_sec(self) -> float:
        """For how long the reading under way has been running; 0.0 when none is."""
        return self._thread.busy_sec

    @property
    def outlived(self) -> bool:
        """Whether the driver was upgraded, and its new library cannot be loaded into this process: begin another."""
        return self._session.outlived

    @property
    def thread_alive(self) -> bool:
        """Whether the library's thread runs, unless it is not needed yet or any more."""
        return self._thread.alive

    async def read(self) -> Reading:
        """Take a fresh sample of every device; see VramSource."""
        try:
            reading = await self._thread.call(self._session.read)
        except CallHangs as hang:
            return self._blind(f"nvml-hangs: a driver call has not returned for {hang.seconds:.0f} s")
        except ThreadClosed as error:
            return self._blind(f"nvml-error: no thread for driver calls: {error}")
        if reading.error:
            return self._blind(reading.error)
        self._seen = reading.devices
        return reading

    def renew(self) -> None:
        """See VramSource. A call that hangs meanwhile is not waited for."""
        self._session.renew()

    async def close(self) -> None:
        """Shut the library down; one that hangs is left alone."""
        try:
            await self._thread.call(self._session.close)
        except (CallHangs, ThreadClosed):
            log.debug("NVML is left as it is")
        self._thread.close()

    def _blind(self, error: str) -> Reading:
        stamp = ReadingTime.now(self._clock)
        return Reading(tuple(without_figures(sample, error, stamp) for sample in self._seen), error)
