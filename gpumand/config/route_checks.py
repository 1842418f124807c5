"""Checks that involve several keys of one route: a key without effect is refused, because it hides a mistake."""

from __future__ import annotations

from typing import Any

from gpumand.config.problems import Place, ProblemList
from gpumand.domain.consumer import HealthRoute, Route

_NEEDS_POINTER = {
    "failed_equals": "failed",
    "loading_equals": "loading",
    "sleeping_equals": "sleeping",
    "unloaded_equals": "loaded",
}
"""Keys of a health check, and the pointer without which they have no effect."""


def check_routes(keys: dict[str, Any], place: Place, problems: ProblemList) -> None:
    """Report keys of the health check and of the unload route that have no effect.

    Args:
        keys: the converted keys of a consumer.
        place: location of its table.
        problems: receives every problem.
    """
    health, unload = keys.get("health"), keys.get("unload")
    if isinstance(health, HealthRoute):
        _check_health(health, place.at("health"), problems)
    if isinstance(unload, Route) and unload.async_load:
        problems.add(place.at("unload", "async_load"), "has no effect on an unload route: remove it")


def _check_health(health: HealthRoute, place: Place, problems: ProblemList) -> None:
    for key, pointer in _NEEDS_POINTER.items():
        if getattr(health, key) is not None and not getattr(health, pointer):
            problems.add(place.at(key), f"has no effect without {pointer}: set {pointer}, or remove this key")
    if health.sleeping_path and not health.sleeping:
        problems.add(place.at("sleeping_path"), "has no effect without sleeping: set sleeping, or remove this key")
    for key, other in (("size", "size_vram"), ("size_vram", "size")):
        if getattr(health, key) and not getattr(health, other):
            problems.add(place.at(key), f"has no effect without {other}: set {other}, or remove this key")
    if health.loaded_equals is not None and health.unloaded_equals is not None:
        problems.add(place.at("unloaded_equals"), "cannot be combined with loaded_equals: remove one of the two")
