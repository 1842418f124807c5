"""What is done beside whoever set it off: kept hold of while it runs, and ended with the arbiter."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from gpumand.domain.errors import GpumandError, ShuttingDown

log = logging.getLogger(__name__)

T = TypeVar("T")


class BackgroundTasks:
    """Tasks of nobody in particular."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something beside, and keep hold of it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Await something that, once begun, is done to its end: whoever waits may leave, and it goes on.

        Raises what it raises, and ShuttingDown where the arbiter ended first.
        """
        task = self.spawn(work)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.add_done_callback(_note_fault)
            raise
        if task.cancelled():
            raise ShuttingDown("gpumand is stopping")
        return task.result()

    async def close(self) -> None:
        """End everything, and wait for that."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _note_fault(task: asyncio.Task[Any]) -> None:
    """Nobody is left to be told: a refusal is of no interest then, a fault of ours is."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, GpumandError):
        log.error("what was gone on with for somebody who has left broke off", exc_info=error)
