"""Implements ``[gpu] source = "simulated"``: processes announce the memory they hold in files named after their pid.

It serves to try gpumand and one's own consumers without a GPU. Only the owner may access the directory, and its content
is checked nevertheless (``simulated_files``). As with a driver, memory is free when its process has ended.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from gpumand.domain.device import Devices, ProcessUse, Reading, Sample
from gpumand.ports import Clock
from gpumand.vram.call_thread import CallHangs, CallThread, ThreadClosed
from gpumand.vram.process import command_name
from gpumand.vram.reading_time import ReadingTime, without_readings
from gpumand.vram.simulated_files import AnnouncedUse, AnnouncementReader


def default_dir() -> Path:
    """Return ``$XDG_RUNTIME_DIR/gpumand-simulated``, or ``/run/gpumand-simulated`` if the variable is not set."""
    return Path(os.environ.get("XDG_RUNTIME_DIR") or "/run") / "gpumand-simulated"


def make_dir(path: Path) -> None:
    """Create the directory with access for its owner only, unless it exists. Raises OSError."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    # lstat refuses a symbolic link, which mkdir accepts if it leads to a directory.
    if not stat.S_ISDIR(path.lstat().st_mode):
        raise NotADirectoryError(f"{path} is not a directory")


class SimulatedSource:
    """A VramSource that adds up the announcements of processes."""

    name: str = "simulated"

    def __init__(
        self, total_mib: Sequence[int], directory: str, clock: Clock, *, call_timeout_sec: float = 5.0
    ) -> None:
        """Create the source; nothing is read yet.

        Args:
            total_mib: sizes of the devices in MiB, by index.
            directory: the directory of the announcements; "" for ``default_dir()``.
            clock: current time, for samples.
            call_timeout_sec: real seconds after which the file system counts as hanging.
        """
        self._total_mib = tuple(total_mib)
        self._directory = Path(directory) if directory else default_dir()
        self._clock = clock
        self._thread = CallThread("gpumand-simulated", call_timeout_sec)
        self._reader = AnnouncementReader(self._directory, len(self._total_mib))

    async def read(self, only: Devices = ()) -> Reading:
        """Read all announcements, which costs the same for one device as for all; see VramSource."""
        try:
            return await self._thread.call(self._read)
        except CallHangs as hang:
            error = f"reading {self._directory} has not returned for {hang.seconds:.0f} s"
            return self._without_readings(f"simulator-hangs: {error}")
        except ThreadClosed as error:
            return self._without_readings(f"simulator-failed: no thread for reading: {error}")

    def reopen(self) -> None:
        """Do nothing: no file is open between two readings."""

    async def close(self) -> None:
        """End the thread."""
        self._thread.close()

    def _read(self) -> Reading:
        reading_time = ReadingTime.now(self._clock)
        try:
            make_dir(self._directory)
            announced, complete = self._reader.read()
        except OSError as error:
            return self._without_readings(f"simulator-failed: {error}")
        return Reading(
            tuple(self._sample(index, announced, complete, reading_time) for index in range(len(self._total_mib)))
        )

    def _sample(
        self, index: int, announced: Sequence[AnnouncedUse], complete: bool, reading_time: ReadingTime
    ) -> Sample:
        own = [entry for entry in announced if entry.device == index]
        total_mib = self._total_mib[index]
        # Processes may announce more than the device has, which a real device could not show.
        used_mib = min(total_mib, sum(entry.mib for entry in own))
        return Sample(
            index=index,
            uuid=f"SIM-{index}",
            name="Simulated GPU",
            source=self.name,
            total_mib=total_mib,
            used_mib=used_mib,
            free_mib=total_mib - used_mib,
            processes=tuple(map(_process, own)),
            attributed=complete,
            taken_at=reading_time.monotonic,
            sampled_usec=reading_time.realtime_usec,
            attribution="simulated",
        )

    def _without_readings(self, error: str) -> Reading:
        reading_time = ReadingTime.now(self._clock)
        samples = (self._sample(index, (), True, reading_time) for index in range(len(self._total_mib)))
        return Reading(tuple(without_readings(sample, error, reading_time) for sample in samples), error)


def _process(entry: AnnouncedUse) -> ProcessUse:
    return ProcessUse(entry.pid, entry.mib, entry.name or command_name(entry.pid), consumer=entry.consumer)
