"""Slots of a consumer: how many requests go on, and which one is next."""

from __future__ import annotations

import pytest

from gpumand.gateway.requests import Client
from gpumand.gateway.slots import Slot, SlotKeeper, SlotLimits, SlotQueue

A, B = Client("a"), Client("b")
CHAT = Client("chat", is_interactive=True)
URGENT = Client("urgent", priority=10)


def going(*slots: Slot) -> list[bool]:
    return [one.ready.done() and not one.ready.cancelled() for one in slots]


async def test_without_a_limit_every_request_goes_on() -> None:
    queue = SlotQueue(SlotLimits())

    assert all(going(*(queue.request(A) for _ in range(100))))


async def test_requests_beyond_the_limit_wait_in_their_order() -> None:
    queue = SlotQueue(SlotLimits(2))
    slots = [queue.request(A) for _ in range(4)]
    assert going(*slots) == [True, True, False, False]

    slots[0].leave()
    slots[0].leave()

    assert going(*slots[1:]) == [True, True, False]


async def test_client_with_many_requests_does_not_delay_another_one() -> None:
    queue = SlotQueue(SlotLimits(2))
    many = [queue.request(A) for _ in range(10)]
    other = queue.request(B)

    many[0].leave()

    assert going(other, *many[2:]) == [True] + 8 * [False]


async def test_clients_take_turns_with_a_single_slot() -> None:
    queue = SlotQueue(SlotLimits(1))
    many = [queue.request(A) for _ in range(3)]
    other = [queue.request(B) for _ in range(2)]
    for done in (many[0], other[0], many[1]):
        assert going(done) == [True]
        done.leave()

    assert going(many[2], other[1]) == [False, True]


async def test_higher_priority_is_first() -> None:
    queue = SlotQueue(SlotLimits(1))
    first, second, urgent = queue.request(A), queue.request(B), queue.request(URGENT)

    first.leave()

    assert going(second, urgent) == [False, True]


async def test_reserved_slots_are_for_interactive_clients() -> None:
    queue = SlotQueue(SlotLimits(3, 1))
    batch = [queue.request(A) for _ in range(4)]
    chat = queue.request(CHAT)

    assert going(*batch, chat) == [True, True, False, False, True]
    chat.leave()
    assert going(*batch[2:]) == [False, False]
    batch[0].leave()
    assert going(*batch[2:]) == [True, False]


async def test_waiting_request_that_leaves_takes_no_slot() -> None:
    queue = SlotQueue(SlotLimits(1))
    first, gone, last = (queue.request(A) for _ in range(3))

    gone.leave()
    first.leave()

    assert going(last) == [True]
    last.leave()
    assert queue.is_empty


@pytest.mark.parametrize("limits", [SlotLimits(3), SlotLimits()])
async def test_higher_limit_lets_waiting_requests_go_on(limits: SlotLimits) -> None:
    keeper = SlotKeeper()
    slots = [keeper.request("llm", SlotLimits(1), A) for _ in range(2)]
    assert going(*slots) == [True, False]

    other = keeper.request("embed", SlotLimits(1), A)
    third = keeper.request("llm", limits, A)

    assert going(*slots, other, third) == [True] * 4


async def test_lower_limit_ends_nothing_that_runs() -> None:
    keeper = SlotKeeper()
    slots = [keeper.request("llm", SlotLimits(3), A) for _ in range(3)]
    late = keeper.request("llm", SlotLimits(1), A)

    slots[0].leave()
    slots[1].leave()
    assert going(late) == [False]
    slots[2].leave()
    assert going(late) == [True]
