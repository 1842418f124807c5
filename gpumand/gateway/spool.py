"""Unnamed temporary files for waiting uploads: they vanish with the process, and their total size is limited."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO

from gpumand.gateway.refusals import refused

READ_BYTES = 256 * 1024


class Spool:
    """All temporary files of the gateway.

    Args:
        folder: returns the state directory.
        max_bytes: returns the maximum size of all files.
    """

    def __init__(self, folder: Callable[[], Path], max_bytes: Callable[[], int]) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self.used_bytes = 0

    def file(self) -> SpoolFile:
        """A new file, which is created when something is written."""
        return SpoolFile(self)

    def reserve(self, size: int) -> None:
        """Count bytes; a negative number frees them. Raises Refused if there are too many."""
        if self.used_bytes + size > self._max_bytes():
            text = (
                f"Uploads that wait need more than {self._max_bytes() >> 20} MiB. Send the field model before the "
                "file, or increase spool_max_mib."
            )
            raise refused(507, "spool_full", text, 30)
        self.used_bytes += size

    def open(self) -> IO[bytes]:
        """Open a file without a name (blocks). Raises OSError."""
        return tempfile.TemporaryFile(dir=self._folder(), prefix=".upload-", buffering=0)


class SpoolFile:
    """One unnamed temporary file.

    Args:
        spool: counts its size.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool, self._size = spool, 0
        self._file: IO[bytes] | None = None
        self._busy = asyncio.Lock()
        self._is_closed = False

    async def write(self, data: bytes) -> None:
        """Append bytes. Raises Refused if there is no room."""
        self._spool.reserve(len(data))
        self._size += len(data)
        try:
            async with self._busy:
                await asyncio.shield(asyncio.to_thread(self._append, data))
        except OSError as error:
            text = f"The upload cannot be kept while it waits: {error.strerror}. Send the field model before the file."
            raise refused(507, "spool_failed", text, 30) from None

    async def read(self) -> AsyncIterator[bytes]:
        """The content from its beginning."""
        offset = 0
        while self._file is not None and offset < self._size:
            chunk = await asyncio.to_thread(os.pread, self._file.fileno(), READ_BYTES, offset)
            if not chunk:
                return
            offset += len(chunk)
            yield chunk

    def close(self) -> None:
        """Remove the file; may be called repeatedly."""
        if self._is_closed:
            return
        self._is_closed = True
        self._spool.reserve(-self._size)
        # Removing a large file takes time, and a thread may still be writing to it.
        asyncio.get_running_loop().run_in_executor(None, self._remove)

    def _append(self, data: bytes) -> None:
        if self._file is None:
            self._file = self._spool.open()
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) or 0 :]

    def _remove(self) -> None:
        if self._file is not None:
            self._file.close()
