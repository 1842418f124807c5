"""The order of waiting requests: priority, arrival, and a fair share."""

from __future__ import annotations

from gpumand.domain.fairness import MAX_USERS, FairShare
from gpumand.domain.lease import Owner
from gpumand.domain.queue import RequestQueue
from gpumand.domain.request import AcquireOptions, Request


def request(number: int, *, at: float = 0.0, priority: int = 0) -> Request:
    return Request(number, "c", Owner(":1.1", 1000), AcquireOptions(), priority, at)


def numbers(queue: RequestQueue) -> list[int]:
    return [one.number for one in queue]


def test_first_come_first_served_among_equals() -> None:
    queue = RequestQueue(120.0)
    for number, at in ((1, 5.0), (2, 3.0), (3, 4.0)):
        queue.add(request(number, at=at))

    assert numbers(queue) == [2, 3, 1]


def test_a_priority_point_is_worth_a_hundredth_of_aging_sec() -> None:
    queue = RequestQueue(120.0)
    queue.add(request(1, at=0.0))
    queue.add(request(2, at=50.0, priority=50))
    queue.add(request(3, at=70.0, priority=50))

    assert numbers(queue) == [2, 1, 3], "50 points are worth 60 s"

    queue.set_aging(10.0)
    assert numbers(queue) == [1, 2, 3]


def test_removing_a_request_twice_or_one_never_added_does_nothing() -> None:
    queue = RequestQueue(120.0)
    first, second = request(1), request(2)
    queue.add(first)
    queue.add(second)
    queue.remove(first)
    queue.remove(first)
    queue.remove(request(9))

    assert (numbers(queue), len(queue), first in queue, second in queue) == ([2], 1, False, True)


def test_a_delayed_request_counts_as_having_arrived_later() -> None:
    queue = RequestQueue(120.0)
    queue.add(request(1, at=0.0), delay_sec=30.0)
    queue.add(request(2, at=20.0))
    queue.add(request(3, at=40.0))

    assert numbers(queue) == [2, 1, 3]


def test_the_queue_may_change_during_iteration() -> None:
    queue = RequestQueue(120.0)
    for number in range(5):
        queue.add(request(number))
    for one in queue:
        queue.remove(one)

    assert len(queue) == 0


# -- a fair share ------------------------------------------------------------------------------------------------------


def test_a_user_with_occasional_requests_is_never_delayed() -> None:
    share = FairShare()

    assert [share.delay_sec("a", at, 5.0, 120.0) for at in (0.0, 10.0, 20.0)] == [0.0, 0.0, 0.0]


def test_simultaneous_requests_of_one_user_count_as_consecutive() -> None:
    share = FairShare()

    assert [share.delay_sec("a", 0.0, 5.0, 120.0) for _ in range(4)] == [0.0, 5.0, 10.0, 15.0]
    assert share.delay_sec("b", 1.0, 5.0, 120.0) == 0.0, "another user has a clock of its own"


def test_delays_are_limited_and_keep_the_order_of_one_user() -> None:
    share, queue = FairShare(), RequestQueue(120.0)
    for number in range(100):
        delay_sec = share.delay_sec("a", number * 0.1, 5.0, 60.0)
        assert delay_sec <= 60.0
        queue.add(request(number, at=number * 0.1), delay_sec)

    assert numbers(queue) == list(range(100))


def test_past_work_without_competition_is_no_debt() -> None:
    share = FairShare()
    for _ in range(1000):
        share.delay_sec("a", 0.0, 5.0, 60.0)

    assert share.delay_sec("a", 61.0, 5.0, 60.0) == 0.0


def test_users_without_recent_requests_are_forgotten() -> None:
    share = FairShare()
    for number in range(MAX_USERS * 3):
        share.delay_sec(str(number), float(number), 0.5, 60.0)

    assert len(share._clocks) <= MAX_USERS


def test_the_number_of_clocks_is_limited() -> None:
    share = FairShare()
    for number in range(MAX_USERS * 2):
        share.delay_sec(str(number), 0.0, 5.0, 60.0)

    assert len(share._clocks) == MAX_USERS


def test_requests_that_are_not_served_are_refunded() -> None:
    share = FairShare()
    for at in range(10):
        assert share.delay_sec("a", float(at), 50.0, 120.0) == 0.0
        share.refund("a", 50.0)
    share.refund("unknown user", 50.0)
