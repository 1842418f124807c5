"""Slots of a consumer: how many requests go on, and which one is next."""

from __future__ import annotations

import pytest

from gpumand.gateway.requests import Client
from gpumand.gateway.slot_shares import MAX_CLIENTS
from gpumand.gateway.slots import AGING_SEC, Slot, SlotKeeper, SlotLimits, SlotQueue

A, B = Client("a"), Client("b")
CHAT = Client("chat", is_interactive=True)
URGENT = Client("urgent", priority=10)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


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
    first, second, urgent = queue.request(A), queue.request(B), queue.request(URGENT, 10)

    first.leave()

    assert going(second, urgent) == [False, True]


@pytest.mark.parametrize("work_sec", [0.2, 3.0, 60.0])
async def test_low_priority_is_served_beside_an_endless_stream_of_high_ones(work_sec: float) -> None:
    clock = Clock()
    queue = SlotQueue(SlotLimits(1), clock)
    running = queue.request(CHAT, 100)
    batch = queue.request(A, -100)
    stream = [queue.request(B, 100)]
    began_at = clock.now
    while not going(batch)[0]:
        # Whenever a request of the stream ends, another person has sent the next one already.
        stream.append(queue.request(Client(f"person {clock.now}"), 100))
        clock.now += work_sec
        running.leave()
        running = next((one for one in stream if going(one)[0]), batch)
        stream = [one for one in stream if one is not running]
        assert clock.now - began_at < 2 * AGING_SEC + 3 * work_sec

    # Twice the aging time is the range of priorities, as in gpumand's own queue.
    assert clock.now - began_at >= 2 * AGING_SEC


async def test_waiting_counts_as_priority_by_the_rule_of_gpumand_s_queue() -> None:
    clock = Clock()
    queue = SlotQueue(SlotLimits(1), clock)
    first = queue.request(CHAT)
    batch = queue.request(A, 0)
    clock.now += 0.1 * AGING_SEC - 1
    early = queue.request(B, 10)
    clock.now += 2
    late = queue.request(Client("c"), 10)

    for done in (first, early, batch):
        assert going(late) == [False]
        done.leave()

    assert going(late) == [True]


async def test_client_that_leaves_the_queue_again_and_again_is_not_charged_for_it() -> None:
    queue = SlotQueue(SlotLimits(1), Clock())
    first = queue.request(CHAT)
    for _ in range(50):
        queue.request(A).leave()
    patient = queue.request(A)
    other = queue.request(B)

    first.leave()

    assert going(patient, other) == [True, False]


async def test_burst_of_one_client_delays_another_by_one_request_only() -> None:
    clock = Clock()
    queue = SlotQueue(SlotLimits(1), clock)
    burst = [queue.request(A) for _ in range(50)]
    clock.now += 5
    other = queue.request(B)

    clock.now += 5
    burst[0].leave()

    assert going(other) == [True]


@pytest.mark.parametrize("slots", [1, 4])
async def test_client_with_an_hour_of_backlog_takes_turns_with_one_that_comes_later(slots: int) -> None:
    clock = Clock()
    queue = SlotQueue(SlotLimits(slots), clock)
    backlog = [queue.request(A) for _ in range(1200)]
    running = backlog[:slots]
    served = {"a": 0, "b": 0}

    def finish() -> None:
        """The oldest running request ends; of the client b, one request is waiting all the time."""
        clock.now += 3.0
        running.pop(0).leave()
        (begun,) = [one for one in (*backlog, later[-1]) if going(one)[0] and one.began_at == clock.now]
        running.append(begun)
        served[begun.client.name] += 1
        if begun is later[-1]:
            later.append(queue.request(B))

    later = [queue.request(B)]
    for _ in range(100):
        finish()
    assert served == {"a": 50, "b": 50}

    # Also after a time in which the backlog had all slots to itself, for which it owes nothing.
    later[-1].leave()
    for _ in range(100):
        clock.now += 3.0
        running.pop(0).leave()
        running.extend(one for one in backlog if going(one)[0] and one.began_at == clock.now)
    served.update(a=0, b=0)
    later.append(queue.request(B))
    for _ in range(100):
        finish()
    assert served == {"a": 50, "b": 50}


@pytest.mark.parametrize(("slots", "jobs"), [(1, 1), (4, 1), (4, 4), (8, 8)])
async def test_long_jobs_from_a_time_in_which_nothing_waited_delay_their_client_by_one_turn_only(
    slots: int, jobs: int
) -> None:
    clock = Clock()
    queue = SlotQueue(SlotLimits(slots), clock)
    long = [queue.request(A) for _ in range(jobs)]
    clock.now += 3599
    chats = [queue.request(B) for _ in range(64)]
    clock.now += 1
    for one in long:
        one.leave()
    begun_at, again = clock.now, queue.request(A)
    while not going(again)[0]:
        first = min((one for one in chats if going(one)[0]), key=lambda one: one.began_at or 0.0)
        clock.now = max(clock.now, (first.began_at or 0.0) + 10)
        chats[chats.index(first)] = queue.request(B)
        first.leave()

    assert clock.now - begun_at <= 20


async def test_clients_without_number_are_not_remembered_for_ever() -> None:
    queue = SlotQueue(SlotLimits(1), Clock())
    held = queue.request(A)
    for number in range(MAX_CLIENTS + 10):
        running = queue.request(Client(str(number)))
        held.leave()
        assert going(running) == [True]
        held = running

    assert len(queue._shares._clocks) <= MAX_CLIENTS


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
