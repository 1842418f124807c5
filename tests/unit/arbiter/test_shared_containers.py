"""Consumers whose memory turns out to be that of the same processes, although their units and containers differ."""

from __future__ import annotations

from dataclasses import replace

from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.device import ProcessUse, Sample
from gpumand.domain.shared_units import others_in_unit, sharing_in, stop_blocker, with_stop_blockers
from gpumand.domain.view import ConsumerState

ONE = ConsumerState(ConsumerSpec("one", 1000, unit="ui.service"))
TWO = ConsumerState(ConsumerSpec("two", 1000, container="ui"), pinned=True)
THREE = ConsumerState(ConsumerSpec("three", 1000, unit="other.service"))
CONSUMERS = {state.name: state for state in (ONE, TWO, THREE)}
SAMPLE = Sample(0, "", "", "nvml", 10, 5, 5, (ProcessUse(7, 5, shared=("one", "two")), ProcessUse(8, 1)))


def test_unit_is_not_stopped_while_the_container_that_it_runs_is_in_use_by_another_consumer() -> None:
    sharing = sharing_in([SAMPLE])
    assert sharing == {frozenset({"one", "two"})}
    assert [one.name for one in others_in_unit(CONSUMERS, ONE, sharing)] == ["two"]
    blocker = stop_blocker(CONSUMERS, ONE, 0.0, sharing)
    assert blocker is not None
    assert "two" in blocker.reason
    assert stop_blocker(CONSUMERS, ONE, 0.0) is None
    blocked = with_stop_blockers(CONSUMERS, 0.0, sharing)
    assert [name for name, state in blocked.items() if state.stop_blocker] == ["one"]
    assert stop_blocker(CONSUMERS, THREE, 0.0, sharing) is None


def test_container_that_only_the_other_consumer_stops_is_shared_too() -> None:
    routes = replace(TWO.spec, name="routes", evict=())
    assert others_in_unit({"two": TWO, "routes": ConsumerState(routes)}, TWO)[0].name == "routes"
