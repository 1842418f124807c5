"""An in-memory implementation of the HostMemory port."""

from __future__ import annotations

from collections.abc import Callable


class FakeMemory:
    """A HostMemory whose available RAM the test sets.

    Attributes:
        mib: available MiB before ``taken`` is subtracted; None = unknown.
        taken: returns the MiB in use; 0 by default.
        reads: number of readings.
    """

    def __init__(self, mib: int | None = 1 << 20) -> None:
        self.mib = mib
        self.taken: Callable[[], int] = lambda: 0
        self.reads = 0

    async def available_mib(self) -> int | None:
        """See HostMemory."""
        self.reads += 1
        return None if self.mib is None else self.mib - self.taken()

    async def close(self) -> None:
        """See HostMemory."""
