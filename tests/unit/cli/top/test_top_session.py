"""Calls of the live screen, and signals that arrive while they are in flight."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from gpumand.bus.signal_matches import Signal
from gpumand.cli.client import Client
from gpumand.cli.options import GlobalOptions
from gpumand.cli.top.session import DAEMON_GONE, Top
from tests.unit.cli import samples


class Daemon:
    """A client with the methods that the screen uses.

    Attributes:
        pinned: whether the consumer is pinned in its next status.
        calls: number of calls so far.
        is_running_now: the answer of ``is_running``.
        may_answer_history: set when GetHistory may answer.
        before_delivery: called when a status is ready, before the screen receives it.
    """

    def __init__(self) -> None:
        self.pinned = False
        self.calls = 0
        self.is_running_now = True
        self.may_answer_history = asyncio.Event()
        self.before_delivery: Callable[[], object] = lambda: None

    async def status(self) -> dict[str, Any]:
        self.calls += 1
        answer = samples.status(consumers=[samples.consumer("comfyui", pinned=self.pinned)])
        self.before_delivery()
        return answer

    async def history(self, _: object) -> list[dict[str, Any]]:
        self.calls += 1
        await self.may_answer_history.wait()
        return []

    async def is_running(self) -> bool:
        return self.is_running_now


def signal(member: str, *body: Any) -> Signal:
    return Signal(":1.2", "/", "", member, body)


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
def top(daemon: Daemon) -> Top:
    return Top(cast(Client, daemon), GlobalOptions(), 1.0)


async def test_older_answer_does_not_replace_a_newer_one(daemon: Daemon, top: Top) -> None:
    top._on_signal(signal("EvictionOccurred"))
    earlier = asyncio.create_task(top._refresh())  # blocks in GetHistory
    await asyncio.sleep(0)
    daemon.pinned = True
    later = asyncio.create_task(top._refresh())
    await asyncio.sleep(0)

    daemon.may_answer_history.set()

    await asyncio.gather(earlier, later)
    assert top._model.status is not None
    assert [one["pinned"] for one in top._model.status["consumers"]] == [True]


async def test_daemon_that_leaves_while_its_answer_is_in_flight_is_not_called_again(daemon: Daemon, top: Top) -> None:
    daemon.is_running_now = False
    daemon.before_delivery = lambda: top._on_signal(signal("NameOwnerChanged", "org.gpumand1", ":1.2", ""))

    for _ in range(3):
        await top._refresh()

    assert (top._model.stale_reason, daemon.calls) == (DAEMON_GONE, 1)
