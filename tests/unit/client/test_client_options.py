"""Arguments are checked before a call."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest

from gpumand.client import InvalidArgs
from gpumand.client.options import acquire_options, checked_text, history_options, selection_options, ttl_usec, wait_sec
from gpumand.domain.request_limits import MAX_WAIT_SEC


def test_omitted_arguments_are_not_sent() -> None:
    assert acquire_options("connection", 1.5) == {"lifetime": ("s", "connection"), "timeout_usec": ("t", 1_500_000)}


def test_all_given_arguments_are_sent() -> None:
    options = acquire_options("ttl", 0, ttl_sec=60, priority=-5, device="0", reason="poster", token="abc")
    assert options == {
        "lifetime": ("s", "ttl"),
        "timeout_usec": ("t", 0),
        "ttl_usec": ("t", 60_000_000),
        "priority": ("i", -5),
        "device": ("s", "0"),
        "reason": ("s", "poster"),
        "token": ("s", "abc"),
    }


def test_unlimited_wait_is_a_day() -> None:
    assert wait_sec(None) == wait_sec(math.inf) == wait_sec(10 * MAX_WAIT_SEC) == MAX_WAIT_SEC


@pytest.mark.parametrize("timeout_sec", [-1, math.nan, "soon"])
def test_invalid_wait_is_refused(timeout_sec: Any) -> None:
    with pytest.raises(InvalidArgs, match="timeout_sec"):
        wait_sec(timeout_sec)


@pytest.mark.parametrize("ttl_sec", [0, -1, 1e-9, math.inf, math.nan, "long"])
def test_invalid_time_to_live_is_refused(ttl_sec: Any) -> None:
    with pytest.raises(InvalidArgs, match="ttl_sec"):
        ttl_usec(ttl_sec)


@pytest.mark.parametrize("priority", [101, -101, 2**40, 0.5, "high"])
def test_priority_out_of_range_is_refused(priority: Any) -> None:
    with pytest.raises(InvalidArgs, match="priority must be from -100 to 100"):
        selection_options(priority)


@pytest.mark.parametrize("value", ["a\0b", "\udcff", 7, None, b"comfyui"])
def test_string_that_dbus_cannot_carry_is_refused(value: Any) -> None:
    with pytest.raises(InvalidArgs, match="consumer"):
        checked_text("consumer", value)


def test_history_options_have_time_consumer_and_kind() -> None:
    since = datetime(1970, 1, 1, 0, 1, tzinfo=UTC)
    assert history_options(since, None, "ollama", ["load"], 5) == {
        "limit": ("u", 5),
        "since_usec": ("t", 60_000_000),
        "consumer": ("s", "ollama"),
        "kinds": ("as", ["load"]),
    }


@pytest.mark.parametrize("limit", [0, 1001, -1, "all"])
def test_history_limit_out_of_range_is_refused(limit: Any) -> None:
    with pytest.raises(InvalidArgs, match="limit"):
        history_options(None, None, "", (), limit)


def test_time_before_the_epoch_is_refused() -> None:
    with pytest.raises(InvalidArgs, match="since"):
        history_options(datetime(1960, 1, 1, tzinfo=UTC), None, "", (), 1)
