"""Copies of a consumer's state with other values in some fields."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState

STATE = ConsumerState(ConsumerSpec("tts", 1024), devices=(0,), leases=2, claimed_at=5.0)


@pytest.mark.parametrize("changes", [{}, {"leases": 3}, {"residency": Residency.RESIDENT, "claimed_at": None}])
def test_only_the_named_fields_change(changes: dict[str, Any]) -> None:
    assert STATE.with_changes(**changes) == replace(STATE, **changes)


def test_the_original_state_does_not_change() -> None:
    other = STATE.with_changes(leases=3)
    assert (STATE.leases, other.leases) == (2, 3)


def test_every_field_is_copied() -> None:
    assert vars(STATE.with_changes()).keys() == {field.name for field in fields(ConsumerState)}


def test_an_unknown_field_fails() -> None:
    with pytest.raises(AssertionError, match="no such field"):
        STATE.with_changes(leased=3)


def test_the_copy_is_immutable() -> None:
    with pytest.raises(FrozenInstanceError):
        STATE.with_changes(leases=3).leases = 4  # type: ignore[misc]
