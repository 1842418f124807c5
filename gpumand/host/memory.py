"""Host RAM, as /proc/meminfo tells of it: a HostMemory."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from gpumand.vram.call_thread import CallHangs, CallThread, ThreadClosed

log = logging.getLogger(__name__)

MEMINFO = Path("/proc/meminfo")
MAX_BYTES = 64 * 1024
TIMEOUT_SEC = 2.0
_AVAILABLE = re.compile(rb"^MemAvailable:\s+([0-9]{1,15}) kB$", re.MULTILINE)


class ProcMeminfo:
    """See HostMemory. Read in a thread of its own: the kernel adds up its zones for it, and may take its time."""

    def __init__(self, path: Path = MEMINFO) -> None:
        self._path = path
        self._thread = CallThread("gpumand-meminfo", TIMEOUT_SEC)
        self._error = ""

    async def available_mib(self) -> int | None:
        """See HostMemory."""
        try:
            return self._noted(*await self._thread.call(self._read))
        except (CallHangs, ThreadClosed) as error:
            return self._noted(None, str(error))

    async def close(self) -> None:
        """See HostMemory."""
        self._thread.close()

    def _read(self) -> tuple[int | None, str]:
        try:
            with self._path.open("rb") as file:
                found = _AVAILABLE.search(file.read(MAX_BYTES))
        except OSError as error:
            return None, error.strerror or str(error)
        return (int(found[1]) // 1024, "") if found else (None, "it has no MemAvailable")

    def _noted(self, mib: int | None, error: str) -> int | None:
        if error and error != self._error:
            log.warning("host RAM cannot be read from %s: %s", self._path, error)
        self._error = error
        return mib
