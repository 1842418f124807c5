"""Announces the VRAM that this process holds, for simulated consumers (``[gpu] source = "simulated"``).

This file needs only the standard library, so that a consumer can include a copy of it.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from types import TracebackType


class Announcement:
    """The memory of one process on one or more simulated devices; it ends with the process, or with ``clear``."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        consumer: str = "",
        device: int = 0,
        *,
        name: str = "",
        pid: int = 0,
        also_on: tuple[int, ...] = (),
    ) -> None:
        """Create the announcement; nothing is announced yet.

        Args:
            directory: the directory of announcements; if missing, it is created with access for its owner only.
            consumer: the consumer of this process; "" if its unit identifies it, or if it belongs to none.
            device: index of the device.
            name: short name for display; "" = the name of the process.
            pid: the process that holds the memory; 0 = this process.
            also_on: indices of further devices on which the process holds the same amount.
        """
        self._directory = Path(directory)
        self._fields: dict[str, int | str] = {"consumer": consumer} if consumer else {}
        self._fields |= {"name": name} if name else {}
        self._devices = (device, *also_on)
        self._pid = pid or os.getpid()

    @property
    def path(self) -> Path:
        """The file of the announcement."""
        return self._directory / str(self._pid)

    def set(self, mib: int) -> None:
        """Announce this many MiB. A reader sees the old or the new value, never a partial file. Raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The reader ignores file names that are not numbers, so it never reads the temporary file.
        temporary = self._directory / f".{self._pid}.new"
        held = [{**self._fields, "mib": mib, "device": device} for device in self._devices]
        temporary.write_text(json.dumps(held if len(held) > 1 else held[0]), encoding="utf-8")
        temporary.replace(self.path)

    def clear(self) -> None:
        """Remove the announcement."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    def __enter__(self) -> Announcement:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()
