"""Requests of routers that slept."""

from __future__ import annotations

import pytest

from gpumand.fleet.errors import StaleToken
from gpumand.fleet.tokens import MAX_CONSUMERS, TokenGuard


def test_lower_revision_than_was_seen_for_the_consumer_is_refused() -> None:
    guard = TokenGuard(lambda: 100)
    guard.check("chat", 10)
    guard.check("chat", 10)
    with pytest.raises(StaleToken, match=r"revision 9, 10 was seen here") as refusal:
        guard.check("chat", 9)
    assert refusal.value.seen == 10
    guard.check("image", 9)
    guard.check("chat", 11)


def test_router_without_a_store_has_no_revision() -> None:
    guard = TokenGuard(lambda: 100)
    guard.check("chat", 10)
    guard.check("chat", None)
    with pytest.raises(StaleToken):
        guard.check("chat", 1)


def test_number_of_consumers_is_limited() -> None:
    guard = TokenGuard(lambda: 100)
    for number in range(MAX_CONSUMERS + 1):
        guard.check(f"c{number}", 10)
    guard.check("c0", 1)  # the oldest one is forgotten
    with pytest.raises(StaleToken):
        guard.check(f"c{MAX_CONSUMERS}", 1)


def test_revision_that_this_host_does_not_know_locks_no_other_router_out() -> None:
    known = 20
    guard = TokenGuard(lambda: known)
    guard.check("chat", 10**15)
    guard.check("chat", 20)
    with pytest.raises(StaleToken):
        guard.check("chat", 19)


def test_store_that_was_set_up_again_refuses_no_request() -> None:
    known = 1000
    guard = TokenGuard(lambda: known)
    guard.check("chat", 900)
    known = 5
    guard.check("chat", 5)
