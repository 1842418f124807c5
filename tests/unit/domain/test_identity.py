"""What was measured stays a consumer's own for as long as it is the same thing."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import pytest

from gpumand.domain.consumer import ConsumerSpec, HealthRoute, Route
from gpumand.domain.identity import identity

SPEC = ConsumerSpec(
    "llm",
    4000,
    unit="llm.service",
    url="http://127.0.0.1:1",
    load=Route("/load"),
    unload=Route("/free", json={"free": True}, headers=(("A", "b"),), success="/ok"),
    health=HealthRoute("/health", loaded="/loaded", loaded_equals=False),
    preset="vllm",
)


@dataclass(frozen=True, slots=True)
class LaterRoute(Route):
    """A route as a later version may have it."""

    retries: int = 0
    also: list[str] = field(default_factory=list)


LaterRoute.__name__ = "Route"


def later(route: Route, **more: object) -> LaterRoute:
    return LaterRoute(**{one.name: getattr(route, one.name) for one in fields(route)}, **more)  # type: ignore[arg-type]


def test_identities_that_were_kept_so_far_are_still_valid() -> None:
    assert identity(SPEC) == "39d3331ec29ea3e7"
    assert identity(ConsumerSpec("x", 1, unit="a.service")) == "810d564caaf89fab"


def test_route_with_a_new_field_that_nobody_set_is_the_same_thing() -> None:
    assert identity(replace(SPEC, load=later(Route("/load")))) == identity(SPEC)


@pytest.mark.parametrize("more", [{"retries": 1}, {"also": ["/more"]}])
def test_route_with_a_new_field_that_is_set_is_another_thing(more: dict[str, object]) -> None:
    assert identity(replace(SPEC, load=later(Route("/load"), **more))) != identity(SPEC)


@pytest.mark.parametrize(
    "changes",
    [
        {"unit": "other.service"},
        {"url": "http://127.0.0.1:2"},
        {"preset": ""},
        {"load": None},
        {"load": Route("/load", timeout_sec=5.0)},
        {"health": HealthRoute("/health", loaded="/loaded", loaded_equals=True)},
    ],
)
def test_another_unit_server_or_route_makes_it_another_thing(changes: dict[str, object]) -> None:
    assert identity(replace(SPEC, **changes)) != identity(SPEC)  # type: ignore[arg-type]


def test_another_footprint_or_priority_does_not() -> None:
    assert identity(replace(SPEC, vram_resident_mib=1, priority=5, pinned=True)) == identity(SPEC)
