"""Events for records are delivered once they are due, each to all receivers, in their order."""

from __future__ import annotations

import pytest

from gpumand.daemon.later_events import LaterEvents
from gpumand.domain.events import DevicesChanged, Event, RequestRefused

REFUSED = RequestRefused("tts", 1000, "org.gpumand1.Error.Busy", "busy")


def test_delivery_is_scheduled_once_for_the_events_of_an_iteration() -> None:
    scheduled: list[str] = []
    seen: list[Event] = []
    later = LaterEvents(lambda: scheduled.append("deliver"), seen.append)
    later.publish(REFUSED)
    later.publish(DevicesChanged())
    assert (scheduled, seen) == (["deliver"], [])

    later.deliver()
    assert seen == [REFUSED, DevicesChanged()]
    later.publish(REFUSED)
    assert scheduled == ["deliver", "deliver"]


def test_every_receiver_gets_every_event_once() -> None:
    first: list[Event] = []
    second: list[Event] = []
    later = LaterEvents(lambda: None, first.append, second.append)
    later.publish(REFUSED)
    later.deliver()
    later.publish(DevicesChanged())
    later.deliver()
    later.deliver()

    assert first == second == [REFUSED, DevicesChanged()]


def test_event_that_a_receiver_causes_is_scheduled_too() -> None:
    scheduled: list[str] = []
    seen: list[Event] = []

    def receive(event: Event) -> None:
        seen.append(event)
        if event == REFUSED:
            later.publish(DevicesChanged())

    later = LaterEvents(lambda: scheduled.append("deliver"), receive)
    later.publish(REFUSED)
    later.deliver()
    assert (scheduled, seen) == (["deliver", "deliver"], [REFUSED])

    later.deliver()
    assert seen == [REFUSED, DevicesChanged()]


def test_failing_receiver_keeps_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Event] = []

    def fail(event: Event) -> None:
        raise ValueError("full")

    later = LaterEvents(lambda: None, fail, seen.append)
    later.publish(REFUSED)
    later.publish(DevicesChanged())
    later.deliver()

    assert seen == [REFUSED, DevicesChanged()]
    assert caplog.messages == ["RequestRefused could not be recorded", "DevicesChanged could not be recorded"]
