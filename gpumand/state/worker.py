"""A thread that runs blocking functions in the order of the calls."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_Job = tuple[Callable[[], Any], asyncio.AbstractEventLoop, "asyncio.Future[Any]"]


class Worker:
    """Runs functions one after the other in a separate thread.

    A ThreadPoolExecutor would work too, but takes twice the time from call to start: its idle semaphore and its work
    items have locks of their own, and ``wrap_future`` connects two futures that each have a condition.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called: no further function is accepted."""
        return self._is_closed

    async def run(self, function: Callable[[], T]) -> T:
        """Call a function in the thread; returns its result or raises its exception.

        Cancelling the caller does not cancel the function. Raises OSError after ``close``.
        """
        if self._is_closed:
            raise OSError(errno.ESHUTDOWN, "the worker thread is closed")
        if self._thread is None:
            # A daemon thread: a function that blocks on a hanging disk must not keep the process from exiting.
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        return await self._submit(function)

    async def close(self) -> None:
        """Run all pending functions and end the thread; a second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._thread is not None:
            # The thread runs functions in order: when this one is done, all earlier ones are. None ends the thread.
            ended = self._submit(_no_operation)
            self._jobs.put(None)
            await ended

    def _submit(self, function: Callable[[], T]) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._jobs.put((function, loop, future))
        return future

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            function, loop, future = job
            try:
                result, error = function(), None
            except Exception as raised:
                result, error = None, raised
            _deliver(loop, future, result, error)


def _deliver(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], result: Any, error: Exception | None
) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: the caller does not wait any more
        loop.call_soon_threadsafe(_set_result, future, result, error)


def _set_result(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():  # the caller was cancelled
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _no_operation() -> None:
    """The last function that a worker runs."""
