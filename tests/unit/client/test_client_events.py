"""Reading the stream of events."""

from __future__ import annotations

import pytest

from gpumand.bus.signal_matches import Signal
from gpumand.client import BusUnavailable, Events, LimitsExceeded, Mismatch
from gpumand.client.events import MAX_UNREAD
from gpumand.client.values import LeaseGranted


def granted(*body: object) -> Signal:
    return Signal(":1.1", "/org/gpumand1", "org.gpumand1.Manager", "LeaseGranted", body)


async def test_events_are_in_order_and_unknown_signals_are_skipped() -> None:
    events = Events()
    events.put(granted("1", "comfyui"))
    events.put(Signal(":1.1", "/org/gpumand1", "org.gpumand1.Manager", "SunRose", ()))
    events.put(granted("2", "ollama"))
    assert [await anext(events), await anext(events)] == [LeaseGranted("1", "comfyui"), LeaseGranted("2", "ollama")]


async def test_too_many_unread_events_end_the_stream_with_an_error() -> None:
    events = Events()
    for number in range(2 * MAX_UNREAD):
        events.put(granted(str(number), "comfyui"))
    for number in range(MAX_UNREAD):
        assert await anext(events) == LeaseGranted(str(number), "comfyui")
    for _ in range(2):
        with pytest.raises(LimitsExceeded):
            await anext(events)


async def test_events_before_the_loss_of_the_bus_are_read_first() -> None:
    events = Events()
    events.put(granted("1", "comfyui"))
    events.close("the bus closed the connection")
    assert await anext(events) == LeaseGranted("1", "comfyui")
    with pytest.raises(BusUnavailable, match="the bus closed the connection"):
        await anext(events)


async def test_invalid_event_does_not_end_the_stream() -> None:
    events = Events()
    events.put(granted(7))
    events.put(granted("1", "comfyui"))
    with pytest.raises(Mismatch):
        await anext(events)
    assert await anext(events) == LeaseGranted("1", "comfyui")
