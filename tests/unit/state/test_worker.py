"""The worker thread: functions run in order and never block the event loop."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

from gpumand.state.worker import Worker


async def test_functions_run_in_order_in_one_other_thread() -> None:
    worker = Worker("test")
    done: list[tuple[int, int]] = []

    def job(number: int) -> int:
        done.append((number, threading.get_ident()))
        return number

    numbers = range(200)
    assert await asyncio.gather(*(worker.run(partial(job, number)) for number in numbers)) == [*numbers]

    assert [number for number, _ in done] == [*numbers]
    assert {thread for _, thread in done}.isdisjoint({threading.get_ident()})
    assert len({thread for _, thread in done}) == 1
    await worker.close()


async def test_event_loop_runs_while_a_function_blocks() -> None:
    worker = Worker("test")
    gate = threading.Event()
    blocked = asyncio.ensure_future(worker.run(gate.wait))

    for _ in range(10):
        await asyncio.sleep(0)
    assert not blocked.done()
    gate.set()

    assert await blocked
    await worker.close()


async def test_exception_reaches_only_its_caller() -> None:
    worker = Worker("test")

    failed, fine = await asyncio.gather(worker.run(lambda: 1 // 0), worker.run(lambda: 7), return_exceptions=True)

    assert isinstance(failed, ZeroDivisionError)
    assert fine == 7
    await worker.close()


async def test_function_runs_although_its_caller_is_cancelled() -> None:
    worker = Worker("test")
    gate, done = threading.Event(), threading.Event()
    first = asyncio.ensure_future(worker.run(gate.wait))
    second = asyncio.ensure_future(worker.run(done.set))
    await asyncio.sleep(0)

    second.cancel()
    gate.set()
    await worker.close()

    assert done.is_set()
    assert first.done()
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_close_runs_pending_functions_and_ends_the_thread() -> None:
    worker = Worker("gpumand-test-close")
    done: list[int] = []
    waiting = [asyncio.ensure_future(worker.run(partial(done.append, number))) for number in range(50)]
    await asyncio.sleep(0)

    await worker.close()
    await worker.close()

    assert done == [*range(50)]
    await asyncio.gather(*waiting)
    for thread in threading.enumerate():
        if thread.name == "gpumand-test-close":  # it is about to end
            thread.join(timeout=30)
            assert not thread.is_alive()


async def test_closed_worker_raises_os_error() -> None:
    worker = Worker("test")
    await worker.close()

    with pytest.raises(OSError, match="closed"):
        await worker.run(lambda: None)


def test_loop_closed_before_the_function_returns_is_no_error() -> None:
    gate, done = threading.Event(), threading.Event()
    worker = Worker("test")

    async def submit_and_cancel() -> None:
        pending = [asyncio.ensure_future(worker.run(gate.wait)), asyncio.ensure_future(worker.run(done.set))]
        await asyncio.sleep(0)
        for one in pending:
            one.cancel()
        await asyncio.wait(pending)

    asyncio.run(submit_and_cancel())
    gate.set()

    assert done.wait(timeout=30)
