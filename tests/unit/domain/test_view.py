"""A consumer's state with other values in some fields."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from gpumand.domain.consumer import ConsumerSpec, Residency
from gpumand.domain.view import ConsumerState

STATE = ConsumerState(ConsumerSpec("tts", 1024), devices=(0,), leases=2, claimed_at=5.0)


@pytest.mark.parametrize("changes", [{}, {"leases": 3}, {"residency": Residency.RESIDENT, "claimed_at": None}])
def test_only_what_is_named_changes(changes: dict[str, Any]) -> None:
    assert STATE.having(**changes) == replace(STATE, **changes)


def test_the_former_state_stays_as_it_was() -> None:
    other = STATE.having(leases=3)
    assert (STATE.leases, other.leases) == (2, 3)


def test_every_field_is_taken_over() -> None:
    assert vars(STATE.having()).keys() == {field.name for field in fields(ConsumerState)}


def test_a_misspelled_field_is_noticed() -> None:
    with pytest.raises(AssertionError, match="no such field"):
        STATE.having(leased=3)


def test_the_new_state_is_as_frozen_as_any() -> None:
    with pytest.raises(FrozenInstanceError):
        STATE.having(leases=3).leases = 4  # type: ignore[misc]
