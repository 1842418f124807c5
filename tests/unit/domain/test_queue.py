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


def test_a_point_of_priority_is_worth_so_many_seconds() -> None:
    queue = RequestQueue(120.0)
    queue.add(request(1, at=0.0))
    queue.add(request(2, at=50.0, priority=50))
    queue.add(request(3, at=70.0, priority=50))

    assert numbers(queue) == [2, 1, 3], "50 points are worth 60 s"

    queue.set_aging(10.0)
    assert numbers(queue) == [1, 2, 3]


def test_who_leaves_is_gone_and_who_never_came_may_leave() -> None:
    queue = RequestQueue(120.0)
    first, second = request(1), request(2)
    queue.add(first)
    queue.add(second)
    queue.remove(first)
    queue.remove(first)
    queue.remove(request(9))

    assert (numbers(queue), len(queue), first in queue, second in queue) == ([2], 1, False, True)


def test_who_is_put_back_counts_as_having_come_later() -> None:
    queue = RequestQueue(120.0)
    queue.add(request(1, at=0.0), put_back_sec=30.0)
    queue.add(request(2, at=20.0))
    queue.add(request(3, at=40.0))

    assert numbers(queue) == [2, 1, 3]


def test_the_queue_may_change_while_it_is_looked_at() -> None:
    queue = RequestQueue(120.0)
    for number in range(5):
        queue.add(request(number))
    for one in queue:
        queue.remove(one)

    assert len(queue) == 0


# -- a fair share ------------------------------------------------------------------------------------------------------


def test_who_asks_now_and_then_is_never_put_back() -> None:
    share = FairShare()

    assert [share.put_back_sec("a", at, 5.0, 120.0) for at in (0.0, 10.0, 20.0)] == [0.0, 0.0, 0.0]


def test_many_at_once_count_as_having_come_one_after_the_other() -> None:
    share = FairShare()

    assert [share.put_back_sec("a", 0.0, 5.0, 120.0) for _ in range(4)] == [0.0, 5.0, 10.0, 15.0]
    assert share.put_back_sec("b", 1.0, 5.0, 120.0) == 0.0, "somebody else has a clock of its own"


def test_nobody_is_put_back_by_more_than_the_limit_and_the_order_of_one_user_stays() -> None:
    share, queue = FairShare(), RequestQueue(120.0)
    for number in range(100):
        back_sec = share.put_back_sec("a", number * 0.1, 5.0, 60.0)
        assert back_sec <= 60.0
        queue.add(request(number, at=number * 0.1), back_sec)

    assert numbers(queue) == list(range(100))


def test_what_was_used_while_nobody_else_came_is_no_debt() -> None:
    share = FairShare()
    for _ in range(1000):
        share.put_back_sec("a", 0.0, 5.0, 60.0)

    assert share.put_back_sec("a", 61.0, 5.0, 60.0) == 0.0


def test_users_that_come_and_go_are_forgotten() -> None:
    share = FairShare()
    for number in range(MAX_USERS * 3):
        share.put_back_sec(str(number), float(number), 0.5, 60.0)

    assert len(share._clocks) <= MAX_USERS


def test_more_users_at_once_than_any_host_has_cost_no_more_memory() -> None:
    share = FairShare()
    for number in range(MAX_USERS * 2):
        share.put_back_sec(str(number), 0.0, 5.0, 60.0)

    assert len(share._clocks) == MAX_USERS


def test_who_asks_again_and_again_without_being_served_pays_once() -> None:
    share = FairShare()
    for at in range(10):
        assert share.put_back_sec("a", float(at), 50.0, 120.0) == 0.0
        share.give_back("a", 50.0)
    share.give_back("nobody", 50.0)
