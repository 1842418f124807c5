"""CallThread, with calls that return, fail or hang."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from gpumand.vram.call_thread import CallHangs, CallThread, ThreadClosed
from tests.waiting import DEADLINE_SEC, block_until, until


class GatedCall:
    """A call that returns only when its gate is opened."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.gate = threading.Event()
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        self.started.set()
        assert self.gate.wait(2 * DEADLINE_SEC)
        return self.calls


@pytest_asyncio.fixture
async def make() -> AsyncIterator[Callable[[float], CallThread]]:
    made: list[CallThread] = []

    def build(timeout_sec: float = DEADLINE_SEC) -> CallThread:
        made.append(CallThread("test", timeout_sec))
        return made[-1]

    yield build
    for thread in made:
        thread.close()


async def test_calls_run_in_one_daemon_thread(make: Callable[[], CallThread]) -> None:
    thread = make()
    ran_in = {await thread.call(threading.current_thread) for _ in range(5)}
    [worker] = ran_in
    assert worker is not threading.main_thread()
    assert worker.daemon


async def test_callers_share_a_queued_call_but_not_a_running_one(make: Callable[[], CallThread]) -> None:
    thread, call = make(), GatedCall()
    first = asyncio.create_task(thread.call(call))
    await until(call.started.is_set)
    later = [asyncio.create_task(thread.call(call)) for _ in range(10)]
    await asyncio.sleep(0)
    call.gate.set()
    assert await first == 1
    assert await asyncio.gather(*later) == [2] * 10


async def test_cancelled_caller_does_not_affect_the_others(make: Callable[[], CallThread]) -> None:
    thread, call = make(), GatedCall()
    first = asyncio.create_task(thread.call(call))
    await until(call.started.is_set)
    second, third = asyncio.create_task(thread.call(call)), asyncio.create_task(thread.call(call))
    await asyncio.sleep(0)
    second.cancel()
    first.cancel()
    call.gate.set()
    assert await third == 2
    cancelled = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(result) for result in cancelled] == [asyncio.CancelledError] * 2


async def test_exception_is_raised_in_the_caller(make: Callable[[], CallThread]) -> None:
    def fail() -> None:
        raise ZeroDivisionError("x")

    thread = make()
    with pytest.raises(ZeroDivisionError):
        await thread.call(fail)
    assert await thread.call(lambda: 7) == 7


async def test_hang_is_reported_after_the_timeout_then_at_once_until_the_call_returns(
    make: Callable[[float], CallThread],
) -> None:
    thread, call = make(0.5), GatedCall()
    with pytest.raises(CallHangs):
        await thread.call(call)
    started = time.monotonic()
    for _ in range(100):
        with pytest.raises(CallHangs) as caught:
            await thread.call(call)
        assert caught.value.seconds >= 0.5
    assert time.monotonic() - started < 25, "half of a hundred timeouts"
    assert thread.busy_sec >= 0.5
    call.gate.set()
    await until(lambda: thread.busy_sec == 0)
    assert await thread.call(call) == 2, "the refused calls were not queued"


async def test_call_queued_behind_a_hang_fails_too(make: Callable[[float], CallThread]) -> None:
    thread, call = make(0.1), GatedCall()
    results = await asyncio.gather(*(thread.call(call) for _ in range(5)), return_exceptions=True)
    first = asyncio.gather(thread.call(lambda: 1), return_exceptions=True)
    assert {type(result) for result in [*results, *await first]} == {CallHangs}
    call.gate.set()


async def test_progress_is_the_time_of_the_last_start_or_return(make: Callable[[], CallThread]) -> None:
    thread, call = make(), GatedCall()
    before = time.monotonic()
    task = asyncio.create_task(thread.call(call))
    await until(call.started.is_set)
    began = thread.progressed_at
    assert began >= before
    call.gate.set()
    await task
    await until(lambda: thread.progressed_at > began)
    assert thread.busy_sec == 0


async def test_close_fails_queued_and_later_calls(make: Callable[[], CallThread]) -> None:
    thread, call = make(), GatedCall()
    running = asyncio.create_task(thread.call(call))
    await until(call.started.is_set)
    queued = asyncio.create_task(thread.call(lambda: 1))
    await asyncio.sleep(0)
    thread.close()
    with pytest.raises(ThreadClosed):
        await queued
    with pytest.raises(ThreadClosed):
        await thread.call(lambda: 1)
    call.gate.set()
    assert await running == 1


async def test_thread_that_cannot_be_started_is_reported_and_retried(
    make: Callable[[], CallThread], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    thread = make()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(ThreadClosed, match="can't start new thread"):
            await thread.call(lambda: 1)
    assert await thread.call(lambda: 1) == 1


def test_call_that_returns_after_its_event_loop_is_closed_is_ignored() -> None:
    thread, call = CallThread("test", 0.05), GatedCall()

    async def time_out() -> None:
        with pytest.raises(CallHangs):
            await thread.call(call)

    asyncio.run(time_out())
    call.gate.set()
    block_until(lambda: thread.busy_sec == 0, "the call has returned")
    thread._timeout_sec = DEADLINE_SEC  # the thread of a busy machine takes a moment for the next call

    assert asyncio.run(thread.call(call)) == 2
    thread.close()


async def test_callers_that_share_a_withdrawn_call_fail(make: Callable[[], CallThread]) -> None:
    thread, hanging = make(), GatedCall()
    first = asyncio.create_task(thread.call(hanging))
    await until(hanging.started.is_set)
    others = [asyncio.create_task(thread.call(threading.active_count)) for _ in range(2)]
    await asyncio.sleep(0)
    [shared] = thread._queue

    thread._withdraw(shared)  # as the first caller whose time is over does, at the moment when the running call returns
    hanging.gate.set()

    assert await first == 1
    for other in others:
        with pytest.raises(CallHangs):
            await asyncio.wait_for(other, DEADLINE_SEC)
