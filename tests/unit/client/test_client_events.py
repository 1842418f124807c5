"""Events, as they are read."""

from __future__ import annotations

import pytest

from gpumand.bus.signal_matches import Signal
from gpumand.client import BusUnavailable, Events, LimitsExceeded, Mismatch
from gpumand.client.events import MOST_UNREAD
from gpumand.client.values import LeaseGranted


def granted(*body: object) -> Signal:
    return Signal(":1.1", "/org/gpumand1", "org.gpumand1.Manager", "LeaseGranted", body)


async def test_events_come_in_order_and_unknown_ones_are_passed_over() -> None:
    events = Events()
    events.hear(granted("1", "comfyui"))
    events.hear(Signal(":1.1", "/org/gpumand1", "org.gpumand1.Manager", "SunRose", ()))
    events.hear(granted("2", "ollama"))
    assert [await anext(events), await anext(events)] == [LeaseGranted("1", "comfyui"), LeaseGranted("2", "ollama")]


async def test_events_that_nobody_reads_do_not_fill_the_memory_and_that_is_told() -> None:
    events = Events()
    for number in range(2 * MOST_UNREAD):
        events.hear(granted(str(number), "comfyui"))
    for number in range(MOST_UNREAD):
        assert await anext(events) == LeaseGranted(str(number), "comfyui")
    for _ in range(2):
        with pytest.raises(LimitsExceeded):
            await anext(events)


async def test_what_came_before_the_loss_of_the_bus_is_read_first() -> None:
    events = Events()
    events.hear(granted("1", "comfyui"))
    events.lose("the bus closed the connection")
    assert await anext(events) == LeaseGranted("1", "comfyui")
    with pytest.raises(BusUnavailable, match="the bus closed the connection"):
        await anext(events)


async def test_event_that_is_not_as_the_interface_says_does_not_end_the_others() -> None:
    events = Events()
    events.hear(granted(7))
    events.hear(granted("1", "comfyui"))
    with pytest.raises(Mismatch):
        await anext(events)
    assert await anext(events) == LeaseGranted("1", "comfyui")
