"""Background tasks of the arbiter, which outlive the call that started them and end with the arbiter."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from gpumand.domain.errors import GpumandError, ShuttingDown

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class BackgroundTasks:
    """A set of running tasks. asyncio keeps only weak references to tasks, so a task that is not held may vanish."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Start a task and hold a reference to it until it is done."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def run_to_completion(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Await work that must not stop halfway: when the caller is cancelled, the work continues in the background.

        Raises:
            ShuttingDown: the arbiter was closed before the work was done. Any error of the work is raised too.
        """
        task = self.spawn(work)
        # asyncio.wait does not cancel the task when the caller is cancelled (a client that disconnects).
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.add_done_callback(_log_failure)
            raise
        if task.cancelled():
            raise ShuttingDown("gpumand is stopping")
        return task.result()

    async def close(self) -> None:
        """Cancel all tasks and wait until they have ended."""
        # A task that closes the arbiter must not wait for itself.
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _log_failure(task: asyncio.Task[Any]) -> None:
    """Log an unexpected error of a task whose caller has left; an ordinary refusal needs no line."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, GpumandError):
        log.error("an operation failed after its client had disconnected", exc_info=error)
