"""Implements the VramSource for NVIDIA's driver: initialises NVML, reads it, and recovers from its failures.

``nvml_library`` calls the library, ``nvml_device`` reads one device, ``nvml_mig`` finds MIG instances. This module has
the session, which runs in the library's own thread, and the source, which the daemon awaits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace

from gpumand.domain.device import Devices, Reading, Sample, with_newer_samples
from gpumand.domain.driver_power import DriverPower
from gpumand.domain.gpu_settings import NamedOptions
from gpumand.domain.telemetry import NO_TELEMETRY
from gpumand.ports import Clock, DriverHangs
from gpumand.vram.call_thread import CallHangs, CallThread, ThreadClosed, ThreadProgress
from gpumand.vram.nvml_device import Device, GpuDevices, find_devices, read_device
from gpumand.vram.nvml_host import NvmlHost
from gpumand.vram.nvml_library import CallFailed, Code, LibraryFailed, NvmlLibrary
from gpumand.vram.nvml_mig import gpu_of
from gpumand.vram.nvml_namespace import NamespaceGuard
from gpumand.vram.nvml_telemetry import NvmlTelemetry
from gpumand.vram.pci_power import NVIDIA, read_power
from gpumand.vram.process_names import ProcessNames
from gpumand.vram.reading_time import ReadingTime, failed_reading
from gpumand.vram.sysfs import Root, below
from gpumand.vram.tegra import without_library

log = logging.getLogger(__name__)

FIRST_RETRY_SEC = 1.0
LAST_RETRY_SEC = 60.0

LAYOUT_SEC = 10.0
"""Seconds between lookups of the number of GPUs and of the MIG instances. They change by hand only, and each lookup
takes several driver calls for each GPU. A device that fails is looked up at once."""


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

    def __init__(self, clock: Clock, root: Root = "/", options: NamedOptions = ()) -> None:
        self._clock, self._root, self._options = clock, root, options
        self._host = NvmlHost(root, options)
        self._library = NvmlLibrary()
        self._backoff, self._namespace = Backoff(), NamespaceGuard(self._library, root)
        self._names, self._telemetry = ProcessNames(self._library), NvmlTelemetry(self._library)
        self._found: tuple[GpuDevices, ...] = ()
        self._devices: tuple[Device, ...] = ()
        self._ill: frozenset[int] = frozenset()
        self._layout_at = float("-inf")
        self._open = False
        self._must_reopen = self._is_resuming = False
        self._last_error = ""

    def reopen(self) -> None:
        """Make the next reading reinitialise the library without delay; may be called from any thread."""
        self._must_reopen = True

    def read(self, only: Devices = ()) -> Reading:
        """Read devices, after initialising the library if necessary. Failures are reported in the Reading.

        Args:
            only: indices of the devices to read; () = all.
        """
        reading_time = ReadingTime.now(self._clock)
        return without_library(self._read(only, reading_time), self._root, self._options, reading_time)

    def _read(self, only: Devices, reading_time: ReadingTime) -> Reading:
        if self._must_reopen:
            self._must_reopen = False
            self._is_resuming = self._open
            # Handles are invalid after a suspend. The delay is reset, because earlier failures say nothing about now.
            self.close()
            self._backoff.succeeded()
        if not self._open and not self._backoff.due(reading_time.monotonic):
            return Reading(error=self._last_error)
        try:
            self._ensure_open(reading_time.monotonic)
            samples = self._read_devices(only, reading_time)
            if self._has_newly_failed(samples):
                # Its MIG instance may have been destroyed, the GPU removed, or the whole library may have failed.
                self._layout_at = float("-inf")
                self._ensure_open(reading_time.monotonic)
                samples = self._read_devices(only, reading_time)
        except LibraryFailed as failure:
            return self._failed(str(failure), reading_time.monotonic)
        self._record_result(samples, reading_time.monotonic)
        return Reading(samples)

    @property
    def has_failed(self) -> bool:
        """Whether the library as a whole has failed at the last reading; may be asked from any thread."""
        return bool(self._last_error)

    @property
    def needs_new_process(self) -> bool:
        """Whether the driver was upgraded and its new library cannot be loaded into this process."""
        return self._library.needs_new_process

    def close(self) -> None:
        """Shut the library down."""
        self._open = False
        self._telemetry.forget()
        self._namespace.forget()
        self._library.stop()

    def release(self) -> None:
        """Shut the library down because nothing needs it; the next reading initialises it without delay."""
        self.close()
        self._backoff.succeeded()

    def _read_devices(self, only: Devices, reading_time: ReadingTime) -> tuple[Sample, ...]:
        chosen = [device for device in self._devices if device.index in only] or self._devices
        is_complete = len(chosen) == len(self._devices)
        samples = tuple(self._read_device(device, reading_time, with_telemetry=is_complete) for device in chosen)
        if is_complete:
            self._names.keep_only({process.pid for sample in samples for process in sample.processes})
        return samples

    def _read_device(self, device: Device, reading_time: ReadingTime, *, with_telemetry: bool) -> Sample:
        """Read a device. Readings of some devices only are taken in quick succession and make no further calls."""
        sample = self._namespace.checked(read_device(self._library, self._names, self._host, device, reading_time))
        if device.instance is not None or needs_reinitialisation(sample):
            return sample
        if with_telemetry:
            telemetry = self._telemetry.read(device.uuid, device.handle, is_in_use=bool(sample.processes))
        else:
            telemetry = self._telemetry.last(device.uuid)
        return replace(sample, telemetry=telemetry) if telemetry != NO_TELEMETRY else sample

    def _ensure_open(self, now: float) -> None:
        is_retry_due = self._open and self._backoff.waiting and self._backoff.due(now)
        if is_retry_due and not self._has_healthy_device():
            self.close()
        elif is_retry_due:
            # Initialising the library again would close the session of the healthy devices too.
            self._find_devices(len(self._found), {gpu_of(index) for index in self._ill})
        if self._open and now - self._layout_at >= LAYOUT_SEC:
            self._look_layout_up(now)
        if not self._open:
            self._start()
            self._open, self._layout_at = True, now
            gpus = self._count()
            self._find_devices(gpus, range(gpus))

    def _look_layout_up(self, now: float) -> None:
        """Find MIG instances that were created or destroyed; NVML does not report such changes."""
        self._layout_at = now
        gpus = self._count()
        if gpus != len(self._found):  # NVML notices devices that were added only when it is initialised again
            self.close()
        else:
            self._find_devices(gpus, self._gpus_with_mig())

    def _start(self) -> None:
        """Initialise the library. A driver that served devices and fails now is lost, unless the host has just resumed.

        Raises LibraryFailed.
        """
        try:
            self._library.start()
        except LibraryFailed as failure:
            cause = failure.__cause__
            if self._devices and not self._is_resuming and isinstance(cause, CallFailed) and cause.code == Code.UNKNOWN:
                line = f"the driver had to be initialised again, and failed: {cause}"
                raise LibraryFailed("driver-lost", line) from failure
            raise

    def _has_healthy_device(self) -> bool:
        return any(device.index not in self._ill for device in self._devices)

    def _gpus_with_mig(self) -> list[int]:
        return [gpu for gpu, found in enumerate(self._found) if found.mig_possible]

    def _has_newly_failed(self, samples: Iterable[Sample]) -> bool:
        return any(needs_reinitialisation(sample) and sample.index not in self._ill for sample in samples)

    def _find_devices(self, gpus: int, chosen: Iterable[int]) -> None:
        """Look the devices of the chosen GPUs up; the others stay as they are."""
        before, chosen = {device.index: device for device in self._devices}, set(chosen)
        self._found = tuple(
            find_devices(self._library, gpu, before) if gpu in chosen or gpu >= len(self._found) else self._found[gpu]
            for gpu in range(gpus)
        )
        self._devices = tuple(device for one in self._found for device in one.devices)
        if not self._devices:
            mig_reason = "MIG is enabled on all GPUs, but no MIG instance exists: create one, or disable MIG"
            raise LibraryFailed("no-devices", mig_reason if gpus else "the driver lists no GPU")

    def _count(self) -> int:
        try:
            return int(self._library.call(self._library.nvml.device_count))
        except CallFailed as failure:
            raise LibraryFailed("nvml-error", str(failure)) from failure

    def _failed(self, error: str, now: float) -> Reading:
        error = self._host.explained(error)
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
        self._last_error, self._is_resuming = "", False
        # A failed device is opened again at growing intervals. The library is reinitialised only if all devices fail.
        read = {sample.index for sample in samples}
        present = {device.index for device in self._devices}
        failed = {sample.index for sample in samples if needs_reinitialisation(sample)}
        self._ill = frozenset(failed | (self._ill - read) & present)
        if not self._ill:
            self._backoff.succeeded()
        elif self._backoff.due(now):
            self._backoff.failed(now)


def needs_reinitialisation(sample: Sample) -> bool:
    """Return whether reinitialising the library may repair a failed device."""
    # A device without memory information of its own (unified memory) is not a failure that could be repaired.
    return bool(sample.error) and not sample.error.startswith("memory-info-not-supported")


@dataclass(frozen=True, slots=True)
class _ReadingOf:
    """The call that reads some devices; equal calls that wait in the thread's queue share one reading."""

    session: NvmlSession
    only: Devices

    def __call__(self) -> Reading:
        return self.session.read(self.only)


class NvmlSource(ThreadProgress):
    """A VramSource that reads NVML. Create one per process, because NVML's state is global to the process."""

    name: str = "nvml"

    def __init__(
        self, clock: Clock, root: Root = "/", options: NamedOptions = (), *, call_timeout_sec: float = 5.0
    ) -> None:
        """Create the source; the library is loaded by the first reading.

        Args:
            clock: current time, for samples and back-off.
            root: root of the file system, for host RAM and PCI addresses.
            options: options of single devices.
            call_timeout_sec: real seconds after which a running reading counts as hanging.
        """
        self._clock = clock
        self._thread = CallThread("gpumand-nvml", call_timeout_sec)
        self._session = NvmlSession(clock, root, options)
        self._root = root
        self._last_samples: tuple[Sample, ...] = ()

    @property
    def needs_new_process(self) -> bool:
        """Whether the driver was upgraded and its new library cannot be loaded into this process."""
        return self._session.needs_new_process

    async def read(self, only: Devices = ()) -> Reading:
        """Take fresh samples of devices; see VramSource."""
        try:
            reading = await self._thread.call(_ReadingOf(self._session, only))
        except CallHangs as hang:
            return self._without_readings(f"nvml-hangs: a driver call has not returned for {hang.seconds:.0f} s")
        except ThreadClosed as error:
            return self._without_readings(f"nvml-error: no thread for driver calls: {error}")
        if reading.error:
            return self._without_readings(reading.error)
        self._last_samples = with_newer_samples(self._last_samples, reading.devices) if only else reading.devices
        return reading

    async def release_driver(self) -> None:
        """Shut the library down until the next reading. Raises DriverHangs if it does not answer."""
        try:
            await self._thread.call(self._session.release)
        except CallHangs as hang:
            raise DriverHangs(f"a driver call has not returned for {hang.seconds:.0f} s") from hang
        except ThreadClosed:
            log.debug("the library's thread is closed already")

    def rest_driver(self, *, resting: bool) -> None:
        """Do nothing: it has no other devices; see Driver."""

    async def power(self) -> DriverPower:
        """The power state of the cards, read in a thread of its own; see Driver."""
        return await asyncio.to_thread(read_power, below(self._root, NVIDIA))

    def retry(self) -> None:
        """Initialise the library again with the next reading if it has failed; see Retrying."""
        if self._session.has_failed and not self._thread.busy_sec:  # a call that hangs is not disturbed
            self._session.reopen()

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
        return failed_reading(self._last_samples, error, self._clock)
