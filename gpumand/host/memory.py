"""The HostMemory port on /proc/meminfo."""

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
    """Reads available host RAM from /proc/meminfo; see the port HostMemory.

    The file is read in a separate thread: the kernel computes its values on every read, which may take time.
    """

    def __init__(self, path: Path = MEMINFO) -> None:
        self._path = path
        self._thread = CallThread("gpumand-meminfo", TIMEOUT_SEC)
        self._error = ""

    async def available_mib(self) -> int | None:
        """See HostMemory."""
        try:
            return self._logged_on_change(*await self._thread.call(self._read))
        except (CallHangs, ThreadClosed) as error:
            return self._logged_on_change(None, str(error))

    async def close(self) -> None:
        """See HostMemory."""
        self._thread.close()

    def _read(self) -> tuple[int | None, str]:
        try:
            with self._path.open("rb") as file:
                found = _AVAILABLE.search(file.read(MAX_BYTES))
        except OSError as error:
            return None, error.strerror or str(error)
        return (int(found[1]) // 1024, "") if found else (None, "it has no line MemAvailable")

    def _logged_on_change(self, mib: int | None, error: str) -> int | None:
        if error and error != self._error:
            # Only a new error is logged: the file is read with every VRAM sample.
            log.warning(
                "cannot read available host RAM from %s: %s. Until it works again, consumers are stopped, not parked",
                self._path,
                error,
            )
        self._error = error
        return mib
