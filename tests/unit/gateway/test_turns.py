"""Requests share leases in turns, so that endless requests to one consumer do not keep another waiting."""

from __future__ import annotations

from gpumand.gateway.turns import Acquire, Cancel, Demand, Merge, Phase, Release, Turns


def granted_turns(members: int = 1, **times: float) -> Turns:
    """Turns whose first generation was granted at 0.0."""
    turns = Turns(**{"turn_sec": 2.0, "linger_sec": 5.0} | times)
    for _ in range(members):
        turns.join(0.0, 0)
    assert turns.granted(0.0, 1) == []
    return turns


def test_requests_join_before_the_acquire_returns() -> None:
    turns = Turns(2.0, 5.0)

    assert turns.join(0.0, 7) == (1, [Acquire(1, 7)])
    assert turns.join(100.0, 7) == (1, [])
    assert turns.join(200.0, -1) == (1, [])


def test_request_with_higher_priority_than_the_waiting_acquire_gets_one_of_its_own() -> None:
    turns = Turns(2.0, 5.0)
    turns.join(0.0, 0)

    assert turns.join(0.0, 10) == (2, [Acquire(2, 10)])
    assert turns.join(0.0, 5) == (2, [])


def test_requests_share_a_lease_without_a_limit_while_no_other_request_waits() -> None:
    turns = granted_turns()

    assert turns.join(1000.0, 0) == (1, [])


def test_requests_after_the_turn_wait_for_a_lease_of_their_own_while_others_wait() -> None:
    turns = granted_turns()
    assert turns.set_demand(1.0, Demand.WAITING) == []

    assert turns.join(1.9, 0) == (1, [])
    assert turns.join(2.0, 0) == (2, [Acquire(2, 0)])
    assert turns.join(9.0, 0) == (2, [])


def test_acquire_is_held_back_until_the_wanted_lease_was_released() -> None:
    turns = granted_turns()
    turns.set_demand(1.0, Demand.WANTED)

    assert turns.join(2.0, 1) == (2, [])
    assert turns.join(2.1, 5) == (2, [])
    assert turns.leave(3.0, 1) == [Release(1)]
    assert turns.released(1) == [Acquire(2, 5)]


def test_held_back_acquire_of_requests_that_left_is_never_sent() -> None:
    turns = granted_turns()
    turns.set_demand(1.0, Demand.WANTED)
    turns.join(2.0, 1)

    assert turns.leave(2.5, 2) == []
    assert turns.leave(3.0, 1) == [Release(1)]
    assert turns.released(1) == []
    assert turns.is_idle


def test_old_lease_is_kept_until_its_last_request_ends() -> None:
    turns = granted_turns(members=2)
    turns.set_demand(1.0, Demand.WAITING)
    turns.join(3.0, 0)
    turns.granted(4.0, 2)

    assert turns.leave(5.0, 1) == []
    assert turns.leave(60.0, 1) == [Release(1)]
    assert turns.phase(2) is Phase.GRANTED


def test_last_waiter_that_leaves_cancels_the_acquire() -> None:
    turns = Turns(2.0, 5.0)
    turns.join(0.0, 0)
    turns.join(0.0, 0)

    assert turns.leave(1.0, 1) == []
    assert turns.leave(1.0, 1) == [Cancel(1)]
    assert turns.is_idle


def test_lease_that_is_granted_after_its_last_request_left_is_released() -> None:
    turns = Turns(2.0, 0.0)
    turns.join(0.0, 0)
    turns._generations[1].members = 0

    assert turns.granted(1.0, 1) == [Release(1)]


def test_lease_lingers_and_is_joined_again() -> None:
    turns = granted_turns()

    assert turns.leave(10.0, 1) == []
    assert turns.next_expiry == 15.0
    assert turns.expire(14.9) == []
    assert turns.join(14.9, 0) == (1, [])
    assert turns.next_expiry is None


def test_lingering_lease_is_released_when_its_time_is_over() -> None:
    turns = granted_turns()
    turns.leave(10.0, 1)

    assert turns.expire(15.0) == [Release(1)]
    assert turns.expire(16.0) == []


def test_lingering_lease_is_released_at_once_when_a_request_waits() -> None:
    turns = granted_turns()
    turns.leave(10.0, 1)

    assert turns.set_demand(11.0, Demand.WAITING) == [Release(1)]
    assert turns.set_demand(11.0, Demand.WAITING) == []


def test_lease_does_not_linger_while_a_request_waits() -> None:
    turns = granted_turns()
    turns.set_demand(1.0, Demand.WANTED)

    assert turns.leave(1.5, 1) == [Release(1)]


def test_request_that_comes_while_a_lease_is_being_released_does_not_join_it() -> None:
    turns = granted_turns()
    turns.set_demand(1.0, Demand.WANTED)
    turns.leave(1.5, 1)

    assert turns.join(1.5, 0) == (2, [])
    assert turns.released(1) == [Acquire(2, 0)]


def test_requests_after_a_failed_acquire_begin_again() -> None:
    turns = Turns(2.0, 5.0)
    turns.join(0.0, 0)
    turns.join(0.0, 0)

    assert turns.ended(1) == []
    assert turns.leave(1.0, 1) == []
    assert turns.join(2.0, 0) == (2, [Acquire(2, 0)])


def test_revoked_lease_is_not_joined_any_more() -> None:
    turns = granted_turns()

    assert turns.ended(1) == []
    assert turns.join(1.0, 0) == (2, [Acquire(2, 0)])
    assert turns.leave(2.0, 1) == []


def test_end_of_the_process_releases_and_cancels_everything() -> None:
    turns = granted_turns()
    turns.set_demand(1.0, Demand.WAITING)
    turns.join(3.0, 0)

    assert turns.release_all() == [Release(1), Cancel(2)]
    assert turns.release_all() == []


def test_consumers_own_priority_is_compared_with_no_number_while_it_is_unknown() -> None:
    turns = Turns(2.0, 5.0)
    turns.join(0.0, 20)

    assert turns.join(0.0, None) == (2, [Acquire(2, None)]), "the own priority may be higher than 20"
    assert turns.join(0.0, -5) == (1, [])
    assert turns.join(0.0, None) == (2, [])


def test_held_back_acquire_does_not_lose_the_consumers_own_priority() -> None:
    turns = granted_turns()
    turns.set_demand(9.0, Demand.WANTED)
    assert turns.join(9.0, None) == (2, [])

    assert turns.join(9.0, -5) == (3, [])
    assert turns.leave(9.0, 1) == [Release(1)]
    assert turns.released(1) == [Acquire(2, None), Acquire(3, -5)]


def test_adopted_lease_is_joined_like_one_that_was_granted_now() -> None:
    turns = Turns(2.0, 5.0)
    assert turns.adopt(100.0, 2) == 1
    assert turns.join(101.0, 0) == (1, [])
    turns.set_demand(101.0, Demand.WANTED)
    assert turns.join(103.0, 0) == (2, [])

    assert [turns.leave(104.0, 1) for _ in range(3)] == [[], [], [Release(1)]]
    assert turns.released(1) == [Acquire(2, 0)]


def test_end_of_the_process_leaves_leases_that_the_next_one_takes_over() -> None:
    turns = Turns(2.0, 5.0)
    kept, other = turns.adopt(0.0, 1), turns.adopt(0.0, 1)

    assert turns.release_all({kept}) == [Release(other)]
    assert turns.phase(kept) is Phase.GRANTED


def test_zero_is_a_priority_like_any_other() -> None:
    turns = Turns(2.0, 5.0)
    assert turns.join(0.0, -5) == (1, [Acquire(1, -5)])
    assert turns.join(0.0, 0) == (2, [Acquire(2, 0)])
    assert turns.join(0.0, -1) == (2, [])


def test_requests_of_all_priorities_share_the_first_lease_that_is_granted() -> None:
    turns = Turns(2.0, 5.0)
    for priority in (-5, 0, 20):
        turns.join(0.0, priority)

    assert turns.granted(1.0, 3) == [Merge(1, 3), Merge(2, 3)]
    assert turns.granted(1.0, 1) == [], "its Acquire was withdrawn"
    assert [turns.leave(2.0, 3) for _ in range(2)] == [[], []]
    turns.set_demand(2.0, Demand.WAITING)
    assert turns.leave(2.0, 3) == [Release(3)]


def test_requests_that_are_held_back_do_not_share_a_lease_whose_turn_is_over() -> None:
    turns = granted_turns()
    turns.set_demand(9.0, Demand.WANTED)
    turns.join(9.0, 0)

    assert turns.phase(2) is Phase.HELD_BACK
    assert turns.granted(9.0, 1) == []
    assert turns.phase(2) is Phase.HELD_BACK
