"""Events for records are delivered after the replies of their turn of the event loop, and before anything later."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.daemon.later_events import LaterEvents
from gpumand.domain.events import DevicesChanged, Event, RequestRefused

REFUSED = RequestRefused("tts", 1000, "org.gpumand1.Error.Busy", "busy")


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_events_follow_what_their_turn_has_scheduled() -> None:
    order: list[object] = []
    loop = asyncio.get_running_loop()
    later = LaterEvents(order.append)

    def answer_call() -> None:
        later.publish(REFUSED)
        loop.call_soon(order.append, "messages are written")
        later.publish(DevicesChanged())

    loop.call_soon(answer_call)
    await turns(3)

    assert order == ["messages are written", REFUSED, DevicesChanged()]


async def test_events_come_before_a_call_that_arrives_after_the_reply() -> None:
    order: list[object] = []
    loop = asyncio.get_running_loop()
    later = LaterEvents(order.append)

    def write_reply() -> None:
        # The earliest moment at which the client could call again.
        loop.call_soon(order.append, "next call")

    later.publish(REFUSED)
    loop.call_soon(write_reply)
    await turns(4)

    assert order == [REFUSED, "next call"]


async def test_every_receiver_gets_every_event_once() -> None:
    first: list[Event] = []
    second: list[Event] = []
    later = LaterEvents(first.append, second.append)
    later.publish(REFUSED)
    later.deliver()
    later.publish(DevicesChanged())
    await turns(3)

    assert first == second == [REFUSED, DevicesChanged()]


async def test_event_that_a_receiver_causes_is_delivered_too() -> None:
    seen: list[Event] = []

    def receive(event: Event) -> None:
        seen.append(event)
        if event == REFUSED:
            later.publish(DevicesChanged())

    later = LaterEvents(receive)
    later.publish(REFUSED)
    await turns(6)

    assert seen == [REFUSED, DevicesChanged()]


async def test_failing_receiver_keeps_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Event] = []

    def fail(event: Event) -> None:
        raise ValueError("full")

    later = LaterEvents(fail, seen.append)
    later.publish(REFUSED)
    later.publish(DevicesChanged())
    later.deliver()

    assert seen == [REFUSED, DevicesChanged()]
    assert caplog.messages == ["RequestRefused could not be recorded", "DevicesChanged could not be recorded"]
