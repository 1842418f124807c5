"""For simulated consumers: say how much VRAM this process holds (``[gpu] source = "simulated"``).

Needs nothing but the standard library, so that a consumer may take this file along.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from types import TracebackType


class Announcement:
    """What one process holds on a device of the simulator, or on several; gone with the process, or when cleared."""

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
        """Prepare; nothing is announced yet.

        Args:
            directory: the simulator's; created, for its owner alone, when missing.
            consumer: the consumer this process belongs to, "" where its unit says so (or it belongs to none).
            device: index of the device.
            name: short name for people; "" = the process's own.
            pid: for whom; 0 = this process.
            also_on: indices of further devices on which it holds as much.
        """
        self._directory = Path(directory)
        self._fields: dict[str, int | str] = {"consumer": consumer} if consumer else {}
        self._fields |= {"name": name} if name else {}
        self._devices = (device, *also_on)
        self._pid = pid or os.getpid()

    @property
    def path(self) -> Path:
        """The file."""
        return self._directory / str(self._pid)

    def set(self, mib: int) -> None:
        """Announce so many MiB; a reader sees the old figure or the new one, never half a file. Raises OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The reader looks at names that are numbers only, so it never sees this one.
        temporary = self._directory / f".{self._pid}.new"
        held = [{**self._fields, "mib": mib, "device": device} for device in self._devices]
        temporary.write_text(json.dumps(held if len(held) > 1 else held[0]), encoding="utf-8")
        temporary.replace(self.path)

    def clear(self) -> None:
        """Announce nothing any more."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    def __enter__(self) -> Announcement:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()
