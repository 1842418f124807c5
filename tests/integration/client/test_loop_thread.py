"""Blocking code runs coroutines in the loop of another thread."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from gpumand.client.loop_thread import LoopThread
from tests.waiting import DEADLINE_SEC


async def answer(value: int) -> int:
    await asyncio.sleep(0)
    return value


def test_result_and_error_are_passed_on() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    with LoopThread() as loop:
        assert loop.run(answer(7)) == 7
        with pytest.raises(ZeroDivisionError):
            loop.run(fail())


async def test_caller_may_run_in_an_event_loop() -> None:
    with LoopThread() as loop:
        assert loop.run(answer(7)) == 7


def test_many_threads_may_call_at_the_same_time() -> None:
    with LoopThread() as loop, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda value: loop.run(answer(value)), range(100))) == list(range(100))


def test_interruption_is_raised_after_the_cleanup() -> None:
    cleaned: list[str] = []

    async def work() -> None:
        # The main thread is in run(), or will be before it handles its signals.
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append("cleaned")

    with LoopThread() as loop:
        with pytest.raises(KeyboardInterrupt):
            loop.run(work())
        assert cleaned == ["cleaned"]


def test_closed_loop_refuses_calls_and_its_thread_has_ended() -> None:
    loop = LoopThread()
    loop.close()
    loop.close()
    assert all(thread.name != "gpumand-client" for thread in threading.enumerate())
    with pytest.raises(RuntimeError, match="closed"):
        loop.run(answer(7))


def test_call_during_close_does_not_hang() -> None:
    started, cancelled = threading.Event(), threading.Event()

    async def slow_cleanup() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
            await asyncio.sleep(0.2)

    def late() -> int:
        assert cancelled.wait(DEADLINE_SEC)
        return loop.run(answer(7))

    loop = LoopThread()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(lambda: loop.run(slow_cleanup()))
        assert started.wait(DEADLINE_SEC)
        second = pool.submit(late)
        loop.close()
        for one in (first, second):
            with pytest.raises(RuntimeError, match="closed"):
                one.result(DEADLINE_SEC)


def test_call_that_the_loop_never_starts_does_not_hang() -> None:
    loop = LoopThread()
    taken, going = threading.Event(), threading.Event()

    def keep_busy() -> None:
        taken.set()
        assert going.wait(DEADLINE_SEC)
        loop._loop.stop()  # as close() does; calls submitted from now on miss this iteration

    loop._loop.call_soon_threadsafe(keep_busy)
    assert taken.wait(DEADLINE_SEC)
    with ThreadPoolExecutor(1) as pool:
        forever = pool.submit(lambda: loop.run(asyncio.Event().wait()))
        while not loop._calls:
            going.wait(0.001)
        going.set()
        with pytest.raises(RuntimeError, match="closed"):
            forever.result(DEADLINE_SEC)


def test_running_call_is_cancelled_by_close() -> None:
    started = threading.Event()

    async def forever() -> None:
        started.set()
        await asyncio.Event().wait()

    loop = LoopThread()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: loop.run(forever()))
        assert started.wait(DEADLINE_SEC)
        loop.close()
        with pytest.raises(RuntimeError, match="closed during the call"):
            waiting.result(DEADLINE_SEC)


# Python 3.12 and later warn about forks in multi-threaded programs, which this test is about.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_call_after_a_fork_raises_instead_of_hanging() -> None:
    with LoopThread() as loop:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                loop.run(answer(7))
            except RuntimeError as error:
                os.write(writing, str(error).encode())
            finally:
                loop.close()
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as output:
            assert "fork" in output.read()
        os.waitpid(pid, 0)
        assert loop.run(answer(8)) == 8
