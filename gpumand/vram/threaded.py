"""A VramSource whose session reads files of the kernel in a thread of its own, so that a file may hang."""

from __future__ import annotations

import logging
from typing import Protocol

from gpumand.domain.device import Devices, Reading, Sample
from gpumand.ports import Clock
from gpumand.vram.call_thread import CallHangs, CallThread, ThreadClosed, ThreadProgress
from gpumand.vram.reading_time import failed_reading

log = logging.getLogger(__name__)


class Session(Protocol):
    """What a source keeps between two readings; its methods run in the source's thread."""

    def read(self) -> Reading:
        """Read every device; failures are in the Reading."""

    def reopen(self) -> None:
        """Expect a changed state of the devices, as after a suspend; may be called from any thread."""


class ThreadedSource(ThreadProgress):
    """Reads a session in a thread; see VramSource."""

    def __init__(self, name: str, session: Session, clock: Clock, *, call_timeout_sec: float = 5.0) -> None:
        """Create the source; nothing is read yet.

        Args:
            name: name of the source, as in ``[gpu] source``.
            session: reads the devices.
            clock: current time, for samples.
            call_timeout_sec: real seconds after which a running reading counts as hanging.
        """
        self.name = name
        self._session = session
        self._clock = clock
        self._thread = CallThread(f"gpumand-{name}", call_timeout_sec)
        self._last_samples: tuple[Sample, ...] = ()
        self._logged = ""

    async def read(self, only: Devices = ()) -> Reading:
        """Take a fresh sample of every device, since that costs little; see VramSource."""
        try:
            reading = await self._thread.call(self._session.read)
        except CallHangs as hang:
            return self._without_readings(
                f"sysfs-hangs: reading the files of {self.name} has not returned for {hang.seconds:.0f} s"
            )
        except ThreadClosed as error:
            return self._without_readings(f"sysfs-failed: no thread for reading: {error}")
        except OSError as error:  # a file that vanished in an unforeseen place must not end all readings
            return self._without_readings(f"sysfs-failed: {error.strerror or error}")
        self._log_error(reading.error)
        if reading.devices:
            self._last_samples = reading.devices
        return reading

    def reopen(self) -> None:
        """Take the state of the devices as changed; see VramSource."""
        self._session.reopen()

    async def close(self) -> None:
        """End the thread; a reading that hangs is abandoned."""
        self._thread.close()

    def _without_readings(self, error: str) -> Reading:
        self._log_error(error.partition(":")[0])
        return failed_reading(self._last_samples, error, self._clock)

    def _log_error(self, error: str) -> None:
        if error and error != self._logged:  # the same failure repeats with every reading and is logged once
            log.warning("%s: %s", self.name, error)
        self._logged = error
