"""One thread that does what may block, in the order in which it was asked for."""

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
    """Runs functions in a thread of its own, one after the other.

    An executor would do, but costs twice the time between asking and starting: its idle semaphore and its work items
    are locks of their own, and ``wrap_future`` joins two futures that each have a condition.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        """Whether nothing is done any more."""
        return self._is_closed

    async def run(self, function: Callable[[], T]) -> T:
        """Have the thread call a function, and await what it returns or raises.

        Whoever stops waiting (cancellation) does not keep it from being called. Raises OSError after ``close``.
        """
        if self._is_closed:
            raise OSError(errno.ESHUTDOWN, "the store is closed")
        if self._thread is None:
            # A daemon thread: what was not awaited need not keep a process alive that wants to end.
            self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._thread.start()
        return await self._ask(function)

    async def close(self) -> None:
        """Finish what was asked for and end the thread; a second call does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._thread is not None:
            ended = self._ask(_nothing)
            self._jobs.put(None)
            await ended

    def _ask(self, function: Callable[[], T]) -> asyncio.Future[T]:
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
            _tell(loop, future, result, error)


def _tell(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(_settle, future, result, error)


def _settle(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():  # whoever waited was cancelled
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def _nothing() -> None:
    """The last job of a worker."""
