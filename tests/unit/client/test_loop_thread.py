"""Coroutines run from threads that have no loop, or whose own is busy."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from gpumand.client.loop_thread import LoopThread


async def answer(value: int) -> int:
    await asyncio.sleep(0)
    return value


def test_result_and_error_come_out() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    with LoopThread() as loop:
        assert loop.run(answer(7)) == 7
        with pytest.raises(ZeroDivisionError):
            loop.run(fail())


async def test_running_loop_of_the_caller_is_no_obstacle() -> None:
    with LoopThread() as loop:
        assert loop.run(answer(7)) == 7


def test_many_threads_may_call_at_a_time() -> None:
    with LoopThread() as loop, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda value: loop.run(answer(value)), range(100))) == list(range(100))


def test_interruption_is_raised_when_what_was_begun_is_undone() -> None:
    undone: list[str] = []

    async def work() -> None:
        # The main thread is in run() by now, or will be before it looks at its signals.
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            undone.append("undone")

    with LoopThread() as loop:
        with pytest.raises(KeyboardInterrupt):
            loop.run(work())
        assert undone == ["undone"]


def test_closed_one_says_so_and_its_thread_is_gone() -> None:
    loop = LoopThread()
    loop.close()
    loop.close()
    assert all(thread.name != "gpumand-client" for thread in threading.enumerate())
    with pytest.raises(RuntimeError, match="closed"):
        loop.run(answer(7))


def test_call_that_comes_while_it_is_being_closed_does_not_wait_for_ever() -> None:
    started, cancelled = threading.Event(), threading.Event()

    async def takes_its_time() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
            await asyncio.sleep(0.2)

    def late() -> int:
        cancelled.wait(5)
        return loop.run(answer(7))

    loop = LoopThread()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(lambda: loop.run(takes_its_time()))
        started.wait(5)
        second = pool.submit(late)
        loop.close()
        for one in (first, second):
            with pytest.raises(RuntimeError, match="closed"):
                one.result(5)


def test_call_that_the_loop_never_takes_up_does_not_wait_for_ever() -> None:
    loop = LoopThread()
    taken, going = threading.Event(), threading.Event()

    def keep_busy() -> None:
        taken.set()
        going.wait(5)
        loop._loop.stop()  # as close() does it, and what comes now comes too late for this turn

    loop._loop.call_soon_threadsafe(keep_busy)
    taken.wait(5)
    with ThreadPoolExecutor(1) as pool:
        forever = pool.submit(lambda: loop.run(asyncio.Event().wait()))
        while not loop._calls:
            going.wait(0.001)
        going.set()
        with pytest.raises(RuntimeError, match="closed"):
            forever.result(5)


def test_what_still_runs_at_the_end_is_cancelled() -> None:
    started = threading.Event()

    async def forever() -> None:
        started.set()
        await asyncio.Event().wait()

    loop = LoopThread()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: loop.run(forever()))
        started.wait(5)
        loop.close()
        with pytest.raises(RuntimeError, match="closed meanwhile"):
            waiting.result(5)


# Python 3.12 and later warn of just what this is about.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fork_is_told_instead_of_hanging() -> None:
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
        with os.fdopen(reading) as said:
            assert "fork" in said.read()
        os.waitpid(pid, 0)
        assert loop.run(answer(8)) == 8
