"""``[gpu] source = "simulated"``: processes announce what they hold, in files named after their pid.

For trying gpumand, and consumers of one's own, without a GPU. The directory is the owner's alone; what lies in it is
checked all the same (``simulated_files``). Memory is freed as a driver does it: when the process is gone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from gpumand.domain.device import ProcessUse, Reading, Sample
from gpumand.ports import Clock
from gpumand.vram.call_thread import CallHangs, CallThread, ThreadClosed
from gpumand.vram.process import command_name
from gpumand.vram.reading_time import ReadingTime, without_figures
from gpumand.vram.simulated_files import Announced, AnnouncementReader


def default_dir() -> Path:
    """``$XDG_RUNTIME_DIR/gpumand-simulated``, or ``/run/gpumand-simulated`` where there is no such variable."""
    return Path(os.environ.get("XDG_RUNTIME_DIR") or "/run") / "gpumand-simulated"


def make_dir(path: Path) -> None:
    """Create the directory, for its owner alone, unless it is there. Raises OSError."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not stat.S_ISDIR(path.lstat().st_mode):
        raise NotADirectoryError(f"{path} is no directory")


class SimulatedSource:
    """A VramSource over announcements."""

    name: str = "simulated"

    def __init__(
        self, total_mib: Sequence[int], directory: str, clock: Clock, *, call_timeout_sec: float = 5.0
    ) -> None:
        """Prepare.

        Args:
            total_mib: sizes of the devices, by index.
            directory: where processes announce; "" for ``default_dir()``.
            clock: time of samples.
            call_timeout_sec: real seconds after which a file system counts as hanging.
        """
        self._total_mib = tuple(total_mib)
        self._directory = Path(directory) if directory else default_dir()
        self._clock = clock
        self._thread = CallThread("gpumand-simulated", call_timeout_sec)
        self._reader = AnnouncementReader(self._directory, len(self._total_mib))

    async def read(self) -> Reading:
        """Read all announcements; see VramSource."""
        try:
            return await self._thread.call(self._read)
        except CallHangs as hang:
            return self._blind(f"simulator-hangs: {self._directory} has not answered for {hang.seconds:.0f} s")
        except ThreadClosed as error:
            return self._blind(f"simulator-failed: no thread to read in: {error}")

    def renew(self) -> None:
        """Nothing is open between two readings."""

    async def close(self) -> None:
        """End the thread."""
        self._thread.close()

    def _read(self) -> Reading:
        stamp = ReadingTime.now(self._clock)
        try:
            make_dir(self._directory)
            announced, complete = self._reader.read()
        except OSError as error:
            return self._blind(f"simulator-failed: {error}")
        return Reading(tuple(self._sample(index, announced, complete, stamp) for index in range(len(self._total_mib))))

    def _sample(self, index: int, announced: Sequence[Announced], complete: bool, stamp: ReadingTime) -> Sample:
        own = [entry for entry in announced if entry.device == index]
        total_mib = self._total_mib[index]
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
            taken_at=stamp.monotonic,
            sampled_usec=stamp.realtime_usec,
        )

    def _blind(self, error: str) -> Reading:
        stamp = ReadingTime.now(self._clock)
        samples = (self._sample(index, (), True, stamp) for index in range(len(self._total_mib)))
        return Reading(tuple(without_figures(sample, error, stamp) for sample in samples), error)


def _process(entry: Announced) -> ProcessUse:
    return ProcessUse(entry.pid, entry.mib, entry.name or command_name(entry.pid), consumer=entry.consumer)
