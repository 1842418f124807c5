"""The hook after a write is called once for each iteration of the event loop, whether or not messages were written."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from gpumand.bus.send_queue import Lane, SendQueue


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, other = socket.socketpair()
    ours.setblocking(False)
    other.setblocking(False)
    yield ours, other
    ours.close()
    other.close()


Ends = tuple[socket.socket, socket.socket]


async def turns(number: int = 3) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_messages_are_written_before_the_hook_is_called(ends: Ends) -> None:
    ours, other = ends
    queue, seen = SendQueue(ours, lambda reason: None), list[bytes]()
    queue.on_written(lambda: seen.append(other.recv(100)))
    queue.put(b"event ", Lane.EVENT)
    queue.put(b"reply", Lane.REPLY)
    queue.put(b"state ", Lane.STATE)
    await turns()

    assert seen == [b"state event reply"]


async def test_hook_may_schedule_the_next_write(ends: Ends) -> None:
    ours, _ = ends
    queue, called = SendQueue(ours, lambda reason: None), list[int]()

    def again() -> None:
        called.append(len(called))
        if len(called) < 3:
            queue.schedule_write()

    queue.on_written(again)
    queue.schedule_write()
    await turns(6)

    assert called == [0, 1, 2]


async def test_hook_is_called_although_the_connection_is_lost(ends: Ends) -> None:
    ours, other = ends
    queue, called = SendQueue(ours, lambda reason: None), list[str]()
    queue.on_written(lambda: called.append("called"))
    other.close()
    queue.put(b"message", Lane.REPLY)
    await turns()
    assert called == ["called"]

    queue.stop()
    queue.schedule_write()
    await turns()
    assert called == ["called", "called"]


async def test_end_of_a_lost_connection_does_not_wait_for_events_that_came_later(ends: Ends) -> None:
    queue, called = SendQueue(ends[0], lambda reason: None), list[str]()
    queue.on_written(lambda: called.append("called"))
    queue.stop()
    queue.schedule_write()
    async with asyncio.timeout(30):
        await queue.wait_drained()

    assert called == ["called"]


async def test_hook_is_called_while_the_socket_is_full(ends: Ends) -> None:
    ours, _ = ends
    queue, called = SendQueue(ours, lambda reason: None), list[str]()
    queue.on_written(lambda: called.append("called"))
    queue.put(bytes(4 * 1024 * 1024), Lane.REPLY)
    await turns()
    assert queue.unsent_bytes > 0

    queue.put(b"more", Lane.REPLY)
    await turns()
    assert called == ["called", "called"]
    queue.stop()


async def test_several_hooks_are_called_in_their_order(ends: Ends) -> None:
    queue, called = SendQueue(ends[0], lambda reason: None), list[str]()
    queue.on_written(lambda: called.append("first"))
    queue.on_written(lambda: called.append("second"))
    queue.schedule_write()
    await turns()

    assert called == ["first", "second"]
