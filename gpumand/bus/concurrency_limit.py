"""Turns at something of which only so much may be under way at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gpumand.domain.errors import LimitsExceeded


@dataclass(slots=True)
class _Line:
    """One user's: how many are in it, and who of them may go on."""

    gate: asyncio.Semaphore
    length: int = 0


class ConcurrencyLimiter:
    """Lets so many through at once, in all and of one user, so that no user is kept waiting by another's many.

    Args:
        in_all: how many at once.
        of_one: how many of one user at once; fewer than ``in_all``.
        waiting_of_one: how many of one user may be there, waiting or not.
    """

    def __init__(self, in_all: int, of_one: int, waiting_of_one: int) -> None:
        self._all = asyncio.Semaphore(in_all)
        self._of_one = of_one
        self._waiting_of_one = waiting_of_one
        self._lines: dict[int, _Line] = {}

    @asynccontextmanager
    async def turn(self, uid: int) -> AsyncIterator[None]:
        """Wait for a turn and hold it. Raises LimitsExceeded where too many of this user wait already."""
        line = self._lines.setdefault(uid, _Line(asyncio.Semaphore(self._of_one)))
        if line.length >= self._waiting_of_one:
            raise LimitsExceeded(f"{line.length} calls of uid {uid} are waiting already")
        line.length += 1
        try:
            async with line.gate, self._all:
                yield
        finally:
            line.length -= 1
            if not line.length:
                del self._lines[uid]
