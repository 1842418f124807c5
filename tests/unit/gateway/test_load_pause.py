"""A client whose load has failed is asked to come back when the next load is tried, and not earlier."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from gpumand.client.errors import Busy, ConsumerBackingOff, GpumandError, LoadFailed
from gpumand.client.values import Consumer
from gpumand.gateway.refusals import BACKOFF_RETRY_SEC, refusal_of
from gpumand.gateway.status_view import StatusView

FAILED = Consumer("llm", "failed", "", 8000, None, 0, None, False, False, "", "exit code 1", "", None, "")


@dataclass
class Source:
    """A status with one consumer, which is read at each question."""

    one: Consumer

    async def status(self) -> Any:
        return SimpleNamespace(consumer=lambda name: self.one if name == self.one.name else None)

    async def usual_load_sec(self, consumer: str) -> float | None:
        return None


async def test_pause_after_a_failed_load_is_read_from_the_status_of_this_moment() -> None:
    source = Source(replace(FAILED, residency="loading"))
    view = StatusView(source)
    assert await view.pause_sec("llm") == BACKOFF_RETRY_SEC

    source.one = replace(FAILED, retry_at=datetime.now(UTC) + timedelta(seconds=160))
    assert 155 <= await view.pause_sec("llm") <= 160
    source.one = replace(FAILED, retry_at=datetime.now(UTC) - timedelta(seconds=5))
    assert await view.pause_sec("llm") == 1
    assert await view.pause_sec("other") == BACKOFF_RETRY_SEC


@pytest.mark.parametrize(
    ("error", "retry_sec"),
    [(LoadFailed("no"), 160), (ConsumerBackingOff("no"), 160), (Busy("no"), 40)],
)
def test_only_failed_loads_are_repeated_after_their_pause(error: GpumandError, retry_sec: int) -> None:
    assert refusal_of(error, 40, 160).retry_sec == retry_sec
