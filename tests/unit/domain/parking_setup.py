"""Consumers that park, and views of a host with a size of host RAM."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gpumand.domain.consumer import (
    EvictionMethod,
    SchedulerSettings,
)
from gpumand.domain.decision import Decision, Requirement
from gpumand.domain.planning import decide
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState, View
from tests.unit.domain.build import resident, view

HTTP, UNIT_STOP = EvictionMethod.HTTP, EvictionMethod.UNIT_STOP
RESERVE_MIB = SchedulerSettings().host_ram_reserve_mib


def awake(name: str, mib: int, *, used_at: int = 0, **more: Any) -> ConsumerState:
    """A resident consumer that can be parked."""
    return resident(name, mib, used_at=used_at, **({"parks": True, "residual_mib": 1000} | more))


def parked(name: str, mib: int, *, used_at: int = 0, **more: Any) -> ConsumerState:
    return replace(awake(name, mib, used_at=used_at, **more), residency=Residency.PARKED, footprint_seen=False)


def host(*states: ConsumerState, ram_mib: int | None, **more: Any) -> View:
    """A device on which parked consumers hold their residual, and ``ram_mib`` of host RAM beyond the reserve."""
    held = {one.name: one.spec.residual_mib for one in states if one.residency is Residency.PARKED}
    available_mib = None if ram_mib is None else ram_mib + RESERVE_MIB
    made = view(*states, held=held, concurrent_leases=0, **more)
    return replace(made, host_available_mib=available_mib)


def ask(at: View, name: str = "new") -> Decision:
    return decide(at, Requirement(name))


def plan(decision: Decision) -> list[tuple[str, str, bool]]:
    return [(one.consumer, one.method, one.parks) for one in decision.evictions]
