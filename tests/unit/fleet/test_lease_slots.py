"""The number of leases that callers have on a host."""

from __future__ import annotations

import pytest

from gpumand.arbiter.limits import MAX_LEASES_PER_UID
from gpumand.domain.errors import LimitsExceeded
from gpumand.fleet.lease_slots import MAX_LEASES, MAX_OF_ONE, LeaseSlots


def test_limits_are_below_that_of_gpumand_and_leave_half_to_others() -> None:
    assert MAX_OF_ONE * 2 == MAX_LEASES < MAX_LEASES_PER_UID


def test_one_caller_gets_half_of_the_leases_and_others_get_the_rest() -> None:
    slots = LeaseSlots()
    for _ in range(MAX_OF_ONE):
        slots.take("host gpu2")
    with pytest.raises(LimitsExceeded, match="host gpu2 has 28 leases"):
        slots.take("host gpu2")
    for _ in range(MAX_OF_ONE):
        slots.take("user alice")
    with pytest.raises(LimitsExceeded, match="the fleet has 56 leases"):
        slots.check("host gpu3")


def test_released_lease_is_counted_once() -> None:
    slots = LeaseSlots()
    first, *_ = [slots.take("host gpu2") for _ in range(MAX_OF_ONE)]
    for _ in range(3):
        first()
    slots.take("host gpu2")
    with pytest.raises(LimitsExceeded):
        slots.take("host gpu2")
