"""A client that announces when it gives up gets signs of life before."""

from __future__ import annotations

import pytest

from gpumand.gateway.holding import MIN_PAUSE_SEC, HoldTimes, times_for

CONFIGURED = HoldTimes(290.0, 10.0, 5.0)


@pytest.mark.parametrize(
    ("headers", "patience_sec", "drip_sec"),
    [
        ({}, 10.0, 5.0),
        ({"X-Stainless-Read-Timeout": "600"}, 10.0, 5.0),
        ({"X-Stainless-Read-Timeout": "8.0"}, 4.0, 4.0),
        ({"X-Stainless-Timeout": "12"}, 6.0, 5.0),
        ({"X-Stainless-Timeout": "600", "X-Stainless-Read-Timeout": "5.0"}, 2.5, 2.5),
        ({"X-Stainless-Read-Timeout": "0.001"}, MIN_PAUSE_SEC, MIN_PAUSE_SEC),
        ({"X-Stainless-Read-Timeout": "None"}, 10.0, 5.0),
        ({"X-Stainless-Read-Timeout": "nan"}, 10.0, 5.0),
        ({"X-Stainless-Read-Timeout": "-1"}, 10.0, 5.0),
        ({"X-Stainless-Read-Timeout": "inf"}, 10.0, 5.0),
        ({"X-Stainless-Read-Timeout": "9" * 500}, 10.0, 5.0),
    ],
)
def test_times_of_a_client(headers: dict[str, str], patience_sec: float, drip_sec: float) -> None:
    assert times_for(headers, CONFIGURED) == HoldTimes(290.0, patience_sec, drip_sec)


def test_announcement_never_lengthens_a_configured_time() -> None:
    assert times_for({"X-Stainless-Read-Timeout": "600"}, HoldTimes(20.0, 1.0, 0.5)) == HoldTimes(20.0, 1.0, 0.5)
