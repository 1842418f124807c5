"""The screen's questions, and what happens while they are on their way."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from gpumand.bus.signal_matches import Signal
from gpumand.cli.client import Client
from gpumand.cli.options import GlobalOptions
from gpumand.cli.top.session import GONE, Top
from tests.unit.cli import samples


class Daemon:
    """As much of a client as the screen needs.

    Attributes:
        pinned: what its statuses say of the consumer.
        asked: how often it was asked for anything.
        while_answering: called between an answer and its being heard.
    """

    def __init__(self) -> None:
        self.pinned = False
        self.asked = 0
        self.is_there = True
        self.may_tell_history = asyncio.Event()
        self.while_answering = lambda: None

    async def status(self) -> dict[str, Any]:
        self.asked += 1
        told = samples.status(consumers=[samples.consumer("comfyui", pinned=self.pinned)])
        self.while_answering()
        return told

    async def history(self, _: object) -> list[dict[str, Any]]:
        self.asked += 1
        await self.may_tell_history.wait()
        return []

    async def is_running(self) -> bool:
        return self.is_there


def heard(member: str, *body: Any) -> Signal:
    return Signal(":1.2", "/", "", member, body)


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
def top(daemon: Daemon) -> Top:
    return Top(cast(Client, daemon), GlobalOptions(), 1.0)


async def test_an_earlier_answer_is_not_shown_after_a_later_one(daemon: Daemon, top: Top) -> None:
    top._hear(heard("EvictionOccurred"))
    earlier = asyncio.create_task(top._refresh())  # waits for the history
    await asyncio.sleep(0)
    daemon.pinned = True
    later = asyncio.create_task(top._refresh())
    await asyncio.sleep(0)

    daemon.may_tell_history.set()

    await asyncio.gather(earlier, later)
    assert [one["pinned"] for one in top._model.status["consumers"]] == [True]


async def test_a_daemon_that_leaves_while_its_answer_is_on_its_way_is_gone_and_not_asked(
    daemon: Daemon, top: Top
) -> None:
    daemon.is_there = False
    daemon.while_answering = lambda: top._hear(heard("NameOwnerChanged", "org.gpumand1", ":1.2", ""))

    for _ in range(3):
        await top._refresh()

    assert (top._model.away, daemon.asked) == (GONE, 1)
