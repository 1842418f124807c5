"""Waiting for conditions: a busy machine takes a moment for everything, so no test asserts a state without waiting.

The deadlines only end a test that can no longer pass; none of them is a measurement.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

DEADLINE_SEC = 30.0
POLL_SEC = 0.01


async def until(
    condition: Callable[[], object], what: str = "the condition holds", within_sec: float = DEADLINE_SEC
) -> None:
    """Wait until a condition of this process, of a file or of the kernel holds. Raises AssertionError with ``what``."""
    deadline = time.monotonic() + within_sec
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_sec:g} s: {what}"
        await asyncio.sleep(POLL_SEC)


async def until_answer(
    condition: Callable[[], Awaitable[object]], what: str = "the condition holds", within_sec: float = DEADLINE_SEC
) -> None:
    """The same for a condition that must be asked for. Raises AssertionError with ``what``."""
    deadline = time.monotonic() + within_sec
    while not await condition():
        assert time.monotonic() < deadline, f"not within {within_sec:g} s: {what}"
        await asyncio.sleep(POLL_SEC)


def block_until(
    condition: Callable[[], object], what: str = "the condition holds", within_sec: float = DEADLINE_SEC
) -> None:
    """The same in a test without an event loop, or in one whose loop must stand still meanwhile."""
    deadline = time.monotonic() + within_sec
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_sec:g} s: {what}"
        time.sleep(POLL_SEC)


async def settled(turns: int = 100) -> None:
    """Let all tasks run that are not waiting for time, a thread or another process.

    A sleep does not do that: on a busy machine it can be over after a single turn of the event loop.
    """
    for _ in range(turns):
        await asyncio.sleep(0)


def is_running(pid: int) -> bool:
    """Whether a process runs; a zombie, which only waits for its parent, does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state.rpartition(")")[2].split()[0] not in "ZX"


async def until_ended(pid: int) -> None:
    """Wait for the end of a process that was sent a signal: it is not gone when the signal is sent."""
    await until(lambda: not is_running(pid), f"process {pid} has ended")
