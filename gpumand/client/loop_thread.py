"""An event loop in its own thread, so that blocking code can run coroutines.

It works in programs without a loop, and in those whose loop is busy running the caller.
"""

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
    """A coroutine that one thread runs in the loop of another."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> None:
        self._loop = loop
        self._work = work
        self._done = threading.Event()
        self._task: asyncio.Task[T] | None = None
        self._is_submitted = False

    def submit(self) -> None:
        """Schedule the coroutine in the loop. Raises RuntimeError if the loop is closed."""
        # Set before the call: Ctrl-C can interrupt at any point, and cancel() must not miss a scheduled coroutine.
        self._is_submitted = True
        try:
            self._loop.call_soon_threadsafe(self._start)
        except RuntimeError:
            self._is_submitted = False
            raise

    def abandon(self) -> None:
        """Wake the calling thread after the loop has ended: the coroutine cannot finish any more."""
        if self._task is None:
            self._work.close()
        self._done.set()

    def result(self) -> T:
        """Wait for the coroutine; returns its result or raises its exception."""
        self._done.wait()
        if self._task is None or not self._task.done() or self._task.cancelled():
            raise RuntimeError("the client was closed during the call")
        return self._task.result()

    def cancel(self) -> None:
        """Cancel the coroutine and wait for its cleanup; otherwise its request would stay in the daemon's queue."""
        if not self._is_submitted:
            self._work.close()
        elif not self._done.is_set():
            with suppress(RuntimeError):  # raised when the loop is closed, which has cancelled it already
                self._loop.call_soon_threadsafe(self._cancel)
            self._done.wait(STOP_SEC)

    def _start(self) -> None:
        self._task = self._loop.create_task(self._work)
        self._task.add_done_callback(lambda _: self._done.set())

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        else:
            # Interrupted before call_soon_threadsafe: the loop runs callbacks in order, so _start would have run first.
            self._work.close()
            self._done.set()


class LoopThread:
    """``with LoopThread() as loop: loop.run(coroutine)``, from any thread.

    The thread is a daemon thread: it does not keep a program alive that forgets to close it.
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
        """Run a coroutine in the loop, wait for it and return its result.

        Ctrl-C cancels the coroutine; KeyboardInterrupt is raised after its cleanup.

        Raises:
            RuntimeError: the loop is closed, or this process is a fork of the one that created it, since threads do not
                survive a fork.
        """
        call = _Call(self._loop, work)
        try:
            self._submit(call)
            return call.result()
        except BaseException:
            call.cancel()
            raise
        finally:
            with self._lock:
                self._calls.discard(call)

    def _submit(self, call: _Call[Any]) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError(
                "the client belongs to the parent of this forked process. Create a new client after the fork."
            )
        # Under the lock, so that _serve finds every call that the loop has not finished.
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the client is closed")
            call.submit()
            self._calls.add(call)

    def close(self) -> None:
        """Cancel running calls, wait for their cleanup and end the thread; may be called repeatedly and in a fork."""
        if os.getpid() != self._pid:
            return  # the thread and its loop belong to the parent process
        with self._lock:
            is_first_call, self._is_closed = not self._is_closed, True
        if is_first_call:
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_SEC)

    def _serve(self) -> None:
        try:
            # On exit, the runner cancels the remaining tasks, waits for them and closes the loop.
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.get_loop().run_forever()
        finally:
            with self._lock:
                self._is_closed = True
                for call in self._calls:
                    call.abandon()
