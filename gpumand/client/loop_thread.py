"""An event loop in a thread of its own, for programs that have none, or whose own is busy with the caller."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")

STOP_SEC = 10.0


class _Call(Generic[T]):
    """A coroutine on its way through the loop of another thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> None:
        self._loop = loop
        self._work = work
        self._over = threading.Event()
        self._task: asyncio.Task[T] | None = None
        loop.call_soon_threadsafe(self._start)

    def result(self) -> T:
        """Its result, or what it raised."""
        try:
            self._over.wait()
        except BaseException:
            # What it has begun is undone first: a request that waits would go on waiting.
            self._loop.call_soon_threadsafe(self._cancel)
            self._over.wait(STOP_SEC)
            raise
        if self._task is None or self._task.cancelled():
            raise RuntimeError("the client was closed meanwhile")
        return self._task.result()

    def _start(self) -> None:
        self._task = self._loop.create_task(self._work)
        self._task.add_done_callback(lambda _: self._over.set())

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


class LoopThread:
    """``with LoopThread() as loop: loop.run(coroutine)``, from any thread.

    The thread is a daemon: a program that forgets to close it ends all the same, and with it what hangs on it.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="gpumand-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> LoopThread:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it to its end in the loop and return its result.

        An interruption here (Ctrl-C) cancels it there, and is raised when that is over.

        Raises:
            RuntimeError: it is closed, or this is a fork of the process that made it: threads do not survive a fork.
        """
        try:
            self._require_alive()
            call = _Call(self._loop, work)
        except RuntimeError:
            work.close()
            raise
        return call.result()

    def _require_alive(self) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError("the client belongs to the process that this one is a fork of; make a new one")
        if self._loop.is_closed():
            raise RuntimeError("the client is closed")

    def close(self) -> None:
        """Cancel what still runs, wait for its end, and end the thread; harmless when repeated, and in a fork."""
        if os.getpid() == self._pid and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(STOP_SEC)

    def _serve(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:  # cancels what is left, and closes the loop
            runner.get_loop().run_forever()
