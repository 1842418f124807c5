"""Where a consumer's model is, from facts: its unit, what it says of itself, and what NVML shows.

Assuming instead of looking is how a peer ran its first user out of memory: everything was taken for loaded at start,
so nothing was ever evicted.
"""

from __future__ import annotations

from gpumand.domain.consumer import ConsumerSpec, Health, Residency, UnitActivity, UnitState

CONTEXT_MIB = 600
"""A CUDA context and its libraries take a few hundred MiB before any model is there."""


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
    if unit is not None and unit.activity in (UnitActivity.INACTIVE, UnitActivity.FAILED):
        return Residency.UNLOADED
    if unit is not None and unit.activity is UnitActivity.DEACTIVATING:
        return Residency.UNLOADING
    if unit is not None and unit.activity is UnitActivity.ACTIVATING:
        return Residency.LOADING
    if health is not None and health.loaded is not None:
        return Residency.RESIDENT if health.loaded else Residency.UNLOADED
    if held_mib is not None:
        return _from_vram(spec, unit, held_mib)
    return _from_existence(spec, unit, health)


def _from_vram(spec: ConsumerSpec, unit: UnitState | None, held_mib: int) -> Residency:
    if holds_model(spec, held_mib):
        return Residency.RESIDENT
    # A unit that is nothing but its model (llama-server) may hold it elsewhere, or be about to: running is resident.
    runs_as_loaded = unit is not None and unit.activity is UnitActivity.ACTIVE and not spec.lazy and spec.load is None
    return Residency.RESIDENT if runs_as_loaded else Residency.UNLOADED


def _from_existence(spec: ConsumerSpec, unit: UnitState | None, health: Health | None) -> Residency:
    """Neither the consumer nor NVML says; what is left is whether there is anything that could hold a model."""
    if health is not None and health.gone:
        return Residency.UNLOADED
    is_active = unit is not None and unit.activity is UnitActivity.ACTIVE
    if is_active and spec.load is None and not spec.lazy:
        return Residency.RESIDENT
    return Residency.UNKNOWN
