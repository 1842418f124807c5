"""What of a consumer's state is announced, and what is not."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from gpumand.bus.properties import consumer_state
from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.events import ConsumersChanged
from gpumand.domain.learning import Learned
from gpumand.domain.ledger import UNTOLD
from gpumand.domain.view import ConsumerState
from gpumand.testing.world import FakeWorld

OTHER: dict[str, Any] = {
    "changed_at": 5.0,
    "unit_moved_at": 5.0,
    "idle_since": 5.0,
    "loading_since": 5.0,
    "says_loaded": True,
    "since_usec": 5,
    "claimed_at": 5.0,
    "baseline_mib": {0: 5},
    "shown": True,
    "failures": 5,
    "retry_at": 5.0,
    "unasked": True,
    "jobs": 5,
    "needed_since": 5.0,
    "times": Learned().observe_hold(5.0),
}


@pytest.fixture
async def world() -> FakeWorld:
    made = FakeWorld([ConsumerSpec("tts", 1024)])
    await made.start()
    made.arbiter.arbiter_state.tell()
    made.events.clear()
    return made


def test_what_is_not_announced_is_there() -> None:
    assert {field.name for field in fields(ConsumerState)} >= UNTOLD


@pytest.mark.parametrize("name", sorted(UNTOLD))
async def test_no_property_shows_what_is_not_announced(world: FakeWorld, name: str) -> None:
    before = consumer_state(world.arbiter.consumer_status("tts"))
    state = world.arbiter.arbiter_state.state("tts")
    changed = world.arbiter.arbiter_state.ledger.update("tts", **{name: OTHER[name]})
    assert changed != state
    assert consumer_state(world.arbiter.consumer_status("tts")) == before
    world.arbiter.arbiter_state.tell()
    assert world.named(ConsumersChanged) == []


async def test_what_a_property_shows_is_announced_together_with_what_none_does(world: FakeWorld) -> None:
    world.arbiter.arbiter_state.ledger.update("tts", leases=1, idle_since=5.0)
    world.arbiter.arbiter_state.tell()
    assert world.named(ConsumersChanged) == [ConsumersChanged(frozenset({"tts"}))]


async def test_every_change_makes_another_view(world: FakeWorld) -> None:
    before = world.arbiter.arbiter_state.ledger.changes
    world.arbiter.arbiter_state.ledger.update("tts", says_loaded=True)
    assert world.arbiter.arbiter_state.ledger.changes > before
