"""The identity of a consumer changes with its unit, server or model, and only then."""

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
    """A route with fields that a later version may add."""

    retries: int = 0
    also: list[str] = field(default_factory=list)


LaterRoute.__name__ = "Route"


def with_new_fields(route: Route, **more: object) -> LaterRoute:
    return LaterRoute(**{one.name: getattr(route, one.name) for one in fields(route)}, **more)  # type: ignore[arg-type]


def test_identities_stored_by_earlier_versions_stay_valid() -> None:
    assert identity(SPEC) == "39d3331ec29ea3e7"
    assert identity(ConsumerSpec("x", 1, unit="a.service")) == "810d564caaf89fab"


def test_unset_new_field_of_a_route_does_not_change_the_identity() -> None:
    assert identity(replace(SPEC, load=with_new_fields(Route("/load")))) == identity(SPEC)


@pytest.mark.parametrize("more", [{"retries": 1}, {"also": ["/more"]}])
def test_new_field_of_a_route_changes_the_identity_when_set(more: dict[str, object]) -> None:
    assert identity(replace(SPEC, load=with_new_fields(Route("/load"), **more))) != identity(SPEC)


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
def test_other_unit_server_or_route_changes_the_identity(changes: dict[str, object]) -> None:
    assert identity(replace(SPEC, **changes)) != identity(SPEC)  # type: ignore[arg-type]


def test_footprint_and_priority_do_not_change_the_identity() -> None:
    assert identity(replace(SPEC, vram_resident_mib=1, priority=5, pinned=True)) == identity(SPEC)
