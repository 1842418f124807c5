"""A HostMemory that has what a test says."""

from __future__ import annotations

from collections.abc import Callable


class FakeMemory:
    """Host RAM of a fixed size, or without an answer.

    Attributes:
        mib: what is available before anything is taken; None = nobody can tell.
        taken: asked how much of it is taken; by default nothing is.
        reads: how often it was asked.
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
