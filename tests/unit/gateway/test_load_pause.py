"""A client whose load has failed is asked to come back when the next load is tried, and not earlier."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gpumand.client.errors import Busy, ConsumerBackingOff, GpumandError, InsufficientVram, LoadFailed
from gpumand.client.values import Consumer
from gpumand.gateway.config import GatewaySettings
from gpumand.gateway.parts import Parts
from gpumand.gateway.refusals import BACKOFF_RETRY_SEC, Refused, refusal_of
from gpumand.gateway.requests import Client
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


class View:
    """Notes which questions gpumand gets."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def pause_sec(self, consumer: str) -> int:
        self.asked.append("pause")
        return 160

    async def usual_load_sec(self, consumer: str) -> float:
        self.asked.append("load time")
        return 20.0

    async def place(self, consumer: str) -> tuple[None, int]:
        self.asked.append("queue")
        return None, 1

    async def names(self) -> tuple[str, ...]:
        return ("llm",)


@pytest.mark.parametrize(
    ("error", "asked", "retry_sec"),
    [
        (LoadFailed("no"), ["pause"], 160),
        (ConsumerBackingOff("no"), ["pause"], 160),
        (Busy("no"), ["load time", "queue"], 40),
        (InsufficientVram("no"), [], None),
        (GpumandError("no"), [], 5),
    ],
)
async def test_refusal_waits_only_for_what_it_needs_of_the_status(
    error: GpumandError, asked: list[str], retry_sec: int | None
) -> None:
    """A question costs a call of gpumand, and a moment while gpumand hangs."""
    none, view = cast(Any, None), View()
    parts = Parts(GatewaySettings, none, cast(Any, view), none, none, str, none, none)
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    ready.set_exception(error)
    exchange: Any = SimpleNamespace(service=SimpleNamespace(consumer="llm"), client=Client("me"))
    with pytest.raises(Refused) as raised:
        await parts.granted(exchange, cast(Any, SimpleNamespace(ready=ready)), none)

    assert (view.asked, raised.value.refusal.retry_sec) == (asked, retry_sec)
