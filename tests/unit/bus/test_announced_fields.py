"""Which fields of a consumer's state are announced on D-Bus."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from gpumand.bus.properties import consumer_state
from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.events import ConsumersChanged
from gpumand.domain.learning import LearnedTimes
from gpumand.domain.residency_states import Residency
from gpumand.domain.turns import Turn
from gpumand.domain.view import UNANNOUNCED_FIELDS, ConsumerState
from gpumand.testing.world import FakeWorld

OTHER: dict[str, Any] = {
    "changed_at": 5.0,
    "unit_changed_at": 5.0,
    "idle_since": 5.0,
    "loading_since": 5.0,
    "reports_loaded": True,
    "since_usec": 5,
    "claimed_at": 5.0,
    "baseline_mib": {0: 5},
    "claimed_for_start": True,
    "container_baseline_mib": {0: 5},
    "footprint_seen": True,
    "grew_at": 5.0,
    "in_container": True,
    "failures": 5,
    "retry_at": 5.0,
    "external_load": True,
    "jobs": 5,
    "blocking_since": 5.0,
    "refused_probes": 5,
    "has_served": True,
    "unit_activity": "active",
    "memory_missing": True,
    "unload_pending": True,
    "unload_deferred": True,
    "start_overdue": True,
    "sleeping": True,
    "turn": Turn(ends_at=5.0),
    "times": LearnedTimes().observe_hold(5.0),
}


@pytest.fixture
async def world() -> FakeWorld:
    made = FakeWorld([ConsumerSpec("tts", 1024)])
    await made.start()
    made.arbiter.state.publish_changes()
    made.events.clear()
    return made


def test_every_unannounced_field_exists() -> None:
    assert {field.name for field in fields(ConsumerState)} >= UNANNOUNCED_FIELDS


@pytest.mark.parametrize("name", sorted(UNANNOUNCED_FIELDS))
async def test_unannounced_fields_change_no_property(world: FakeWorld, name: str) -> None:
    before = consumer_state(world.arbiter.announced_consumer("tts"))
    state = world.arbiter.state.consumer("tts")
    changed = world.arbiter.state.ledger.update("tts", **{name: OTHER[name]})
    assert changed != state
    assert consumer_state(world.arbiter.announced_consumer("tts")) == before
    world.arbiter.state.publish_changes()
    assert world.named(ConsumersChanged) == []


async def test_announced_values_are_those_of_the_status(world: FakeWorld) -> None:
    changes: dict[str, Any]
    for changes in ({}, {"leases": 2, "pinned": True, "residency": Residency.FAILED, "error": "it crashed"}):
        world.arbiter.state.ledger.update("tts", **changes)
        announced, status = world.arbiter.announced_consumer("tts"), world.arbiter.consumer_status("tts")
        assert consumer_state(announced) == consumer_state(status)


async def test_change_of_announced_and_unannounced_fields_is_announced(world: FakeWorld) -> None:
    world.arbiter.state.ledger.update("tts", leases=1, idle_since=5.0)
    world.arbiter.state.publish_changes()
    assert world.named(ConsumersChanged) == [ConsumersChanged(frozenset({"tts"}))]


async def test_every_change_increases_the_revision(world: FakeWorld) -> None:
    before = world.arbiter.state.ledger.revision
    world.arbiter.state.ledger.update("tts", reports_loaded=True)
    assert world.arbiter.state.ledger.revision > before
