"""Where a consumer's model is, from facts: its unit, what it says of itself, and what NVML shows.

Assuming instead of looking is how a peer ran its first user out of memory: everything was taken for loaded at start,
so nothing was ever evicted.
"""

from __future__ import annotations

from gpumand.domain.consumer import ConsumerSpec, Health, Residency, UnitActivity, UnitState

CONTEXT_MIB = 600
"""A CUDA context and its libraries take a few hundred MiB before any model is there."""

_BY_ACTIVITY = {
    UnitActivity.INACTIVE: Residency.UNLOADED,
    UnitActivity.FAILED: Residency.UNLOADED,
    UnitActivity.DEACTIVATING: Residency.UNLOADING,
    UnitActivity.ACTIVATING: Residency.LOADING,
}


def holds_model(spec: ConsumerSpec, held_mib: int) -> bool:
    """Whether what its processes hold is more than an empty process would.

    The bar is a quarter of the footprint or a CUDA context on top of its declared residual, whichever is less.
    """
    return held_mib > spec.residual_mib + min(CONTEXT_MIB, spec.vram_resident_mib // 4)


def residency_from_facts(
    spec: ConsumerSpec, unit: UnitState | None, health: Health | None, held_mib: int | None
) -> Residency:
    """Work out a consumer's residency, with nothing believed beforehand.

    Args:
        spec: as configured.
        unit: state of its unit; None where it has none or systemd cannot be asked.
        health: what its health route said; None where it has none or was not asked.
        held_mib: MiB its processes hold; None where that cannot be told.
    """
    if unit is not None and unit.activity in _BY_ACTIVITY:
        return _BY_ACTIVITY[unit.activity]
    if health is not None and health.loaded is not None:
        return Residency.RESIDENT if health.loaded else _without_model(spec, unit, health)
    return _unsaid(spec, unit, health, held_mib)


def _unsaid(spec: ConsumerSpec, unit: UnitState | None, health: Health | None, held_mib: int | None) -> Residency:
    """The consumer does not say; what NVML shows does, and else whether anything runs that could hold a model."""
    if held_mib is not None and holds_model(spec, held_mib):
        return Residency.RESIDENT
    if unit is not None and unit.activity is UnitActivity.ACTIVE and _is_its_model(spec):
        # systemd calls it active from its first moment on; while its server does not listen yet it is loading.
        return Residency.LOADING if health is not None and not health.reachable else Residency.RESIDENT
    if held_mib is not None or (health is not None and health.gone):
        return _without_model(spec, unit, health)
    return Residency.UNKNOWN


def _without_model(spec: ConsumerSpec, unit: UnitState | None, health: Health | None) -> Residency:
    """Where its weights are when they are not in VRAM: a server that parks them and runs has them in host RAM."""
    is_active = unit is not None and unit.activity is UnitActivity.ACTIVE
    runs = is_active if health is None else health.reachable
    return Residency.PARKED if spec.parks and runs else Residency.UNLOADED


def _is_its_model(spec: ConsumerSpec) -> bool:
    """A unit that is nothing but its model (llama-server): while it runs it is loaded, or about to be."""
    return not spec.lazy and spec.load is None
