"""An event loop in a thread of its own, for programs that have none, or whose own is busy with the caller."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from contextlib import suppress
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
        self._is_begun = False

    def begin(self) -> None:
        """Have the loop take it up. Raises RuntimeError where that is closed."""
        self._is_begun = True  # first: an interruption may come at any point
        try:
            self._loop.call_soon_threadsafe(self._start)
        except RuntimeError:
            self._is_begun = False
            raise

    def abandon(self) -> None:
        """The loop is over: what it has not finished by now it never will."""
        if self._task is None:
            self._work.close()
        self._over.set()

    def result(self) -> T:
        """Its result, or what it raised."""
        self._over.wait()
        if self._task is None or not self._task.done() or self._task.cancelled():
            raise RuntimeError("the client was closed meanwhile")
        return self._task.result()

    def undo(self) -> None:
        """Nobody waits for it any more: what it has begun is undone first, or a request would go on waiting."""
        if not self._is_begun:
            self._work.close()
        elif not self._over.is_set():
            with suppress(RuntimeError):  # the loop is closed: it is undone already
                self._loop.call_soon_threadsafe(self._cancel)
            self._over.wait(STOP_SEC)

    def _start(self) -> None:
        self._task = self._loop.create_task(self._work)
        self._task.add_done_callback(lambda _: self._over.set())

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        else:  # it was interrupted before it had the loop take it up, and calls come in their order
            self._work.close()
            self._over.set()


class LoopThread:
    """``with LoopThread() as loop: loop.run(coroutine)``, from any thread.

    The thread is a daemon: a program that forgets to close it ends all the same, and with it what hangs on it.
    """

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._calls: set[_Call[Any]] = set()
        self._is_closed = False
        self._lock = threading.Lock()
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
        call = _Call(self._loop, work)
        try:
            self._begin(call)
            return call.result()
        except BaseException:
            call.undo()
            raise
        finally:
            with self._lock:
                self._calls.discard(call)

    def _begin(self, call: _Call[Any]) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError("the client belongs to the process that this one is a fork of; make a new one")
        with self._lock:  # either the loop still takes it up, or its end finds it
            if self._is_closed:
                raise RuntimeError("the client is closed")
            call.begin()
            self._calls.add(call)

    def close(self) -> None:
        """Cancel what still runs, wait for its end, and end the thread; harmless when repeated, and in a fork."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            is_first, self._is_closed = not self._is_closed, True
        if is_first:
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_SEC)

    def _serve(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:  # cancels what is left, and closes the loop
                runner.get_loop().run_forever()
        finally:
            with self._lock:
                self._is_closed = True
                for call in self._calls:
                    call.abandon()
