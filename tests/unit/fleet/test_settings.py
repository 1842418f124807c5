"""The rights of callers in the configuration of an agent."""

from __future__ import annotations

from gpumand.fleet.settings import FleetConfig, Right

CONFIG = FleetConfig(
    host="gpu1",
    url="https://gpu1:8447",
    allow={"gpu2": frozenset({"acquire", "plan"}), "gpu3": frozenset(), "*": frozenset({"plan"})},
)


def test_caller_has_only_the_rights_of_its_own_entry() -> None:
    assert CONFIG.may("gpu2", Right.ACQUIRE)
    assert not CONFIG.may("gpu2", Right.DRAIN)
    assert not CONFIG.may("gpu3", Right.PLAN)


def test_caller_without_an_entry_has_the_rights_of_any_caller() -> None:
    assert CONFIG.may("laptop", Right.PLAN)
    assert not CONFIG.may("laptop", Right.ACQUIRE)
    assert not FleetConfig(host="gpu1", url="https://gpu1:8447").may("gpu2", Right.PLAN)
