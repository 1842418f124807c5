"""The index of consumers by unit and container finds what a search of all consumers finds, after any change."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from gpumand.arbiter.service_index import ServiceIndex
from gpumand.arbiter.state import ArbiterState
from gpumand.domain.consumer import ConsumerSpec, EvictionMethod
from gpumand.domain.container import service_of
from gpumand.domain.view import ConsumerState
from gpumand.testing.world import FakeWorld

SERVICES = ("", "a.service", "b.service", "c.service")
CONTAINERS = ("", "a", "b")
EVICT = ((), (EvictionMethod.CONTAINER,), (EvictionMethod.HTTP,))


def random_spec(random: Random, number: int) -> ConsumerSpec:
    unit, container = random.choice(SERVICES), random.choice(CONTAINERS)
    return ConsumerSpec(f"c{number}", 1000, unit=unit, container=container, evict=random.choice(EVICT))


def search(state: ArbiterState, service: str) -> list[ConsumerState]:
    """The plain form."""
    found = state.ledger.consumers.values()
    return [one for one in found if service and service in (one.spec.unit, service_of(one.spec.controlled_container))]


def reconfigure(state: ArbiterState, specs: list[ConsumerSpec]) -> None:
    """What a reload does, without the parts that concern other things."""
    state.settings = replace(state.settings, consumers={spec.name: spec for spec in specs})
    state.ledger.configure(state.settings.scheduler, specs)


def compare(state: ArbiterState, index: ServiceIndex) -> int:
    found = 0
    for service in (*SERVICES, *map(service_of, CONTAINERS), "other.service"):
        assert index.consumers_in(service) == search(state, service), service
        found += len(index.consumers_in(service))
    return found


def test_index_finds_what_a_search_finds_over_reloads_and_changes_of_state(seed: int) -> None:
    random = Random(seed)
    found = removed = 0
    state = FakeWorld([]).arbiter.state
    index = ServiceIndex(state)
    for _ in range(300):
        reconfigure(state, [random_spec(random, number) for number in range(random.randrange(8))])
        # A consumer that is leased stays in the ledger after its removal, and the index finds it there.
        removed += len(state.ledger.consumers.keys() - state.settings.consumers.keys())
        found += compare(state, index)
        for name in state.ledger.consumers:
            state.ledger.update(name, claimed_at=random.choice((None, 1.0)))
        state.ledger.prune(state.settings.consumers)
        found += compare(state, index)
    assert min(found, removed) > 100


@pytest.mark.parametrize("count", [100, 1000])
def test_looking_a_unit_up_searches_no_consumers(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search for each unit made the start with 4,000 units take minutes."""
    specs = [ConsumerSpec(f"c{number}", 1000, unit=f"c{number}.service") for number in range(count)]
    index = ServiceIndex(FakeWorld(specs).arbiter.state)
    builds = 0
    build = index._by_service

    def counted() -> dict[str, list[str]]:
        nonlocal builds
        builds += 1
        return build()

    monkeypatch.setattr(index, "_by_service", counted)
    assert [[one.name for one in index.consumers_in(spec.unit)] for spec in specs] == [[one.name] for one in specs]
    assert builds == 1
