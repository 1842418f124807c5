"""Infers where a consumer's model is, from its unit, from its own health answer and from VRAM readings.

Nothing is assumed. A peer project that took every consumer for loaded at start evicted none of them, and its first user
ran out of memory.
"""

from __future__ import annotations

from gpumand.domain.consumer import ConsumerSpec, Health, UnitActivity, UnitState
from gpumand.domain.cuda_context import CONTEXT_MIB
from gpumand.domain.residency_states import Residency

_BY_ACTIVITY = {
    UnitActivity.INACTIVE: Residency.UNLOADED,
    UnitActivity.FAILED: Residency.UNLOADED,
    UnitActivity.DEACTIVATING: Residency.UNLOADING,
    UnitActivity.ACTIVATING: Residency.LOADING,
}


SHOWN_SHARE = 0.9
"""The share of its footprint that a consumer must hold to count as loaded after a failed load, if it does not say."""


def holds_model(spec: ConsumerSpec, held_mib: int) -> bool:
    """Whether the consumer's processes hold more VRAM than its declared residual and a context without a model."""
    return held_mib > spec.residual_mib + context_mib(spec)


def context_mib(spec: ConsumerSpec) -> int:
    """MiB that its processes may hold without a model: a CUDA context, at most a quarter of the footprint."""
    return min(CONTEXT_MIB, spec.vram_resident_mib // 4)


def is_memory_missing(
    spec: ConsumerSpec, held_mib: int | None, unnamed_mib: int | None, *, held_before: bool = False
) -> bool:
    """Whether readings contradict that the consumer's model is in VRAM, whatever its health check says.

    Its own processes hold nothing, and its memory cannot be that of other processes either (a unit that is only the
    ``docker run`` of a container). A lazy consumer holds nothing before its first request.

    Args:
        spec: the consumer as configured.
        held_mib: MiB that its processes hold; None where the reading cannot say.
        unnamed_mib: MiB of memory that belongs to no consumer and may be its own; None where unknown.
        held_before: its own processes have held a model before, so that it does not run elsewhere.
    """
    if spec.lazy or held_mib is None or holds_model(spec, held_mib):
        return False
    return held_before or (unnamed_mib is not None and unnamed_mib <= context_mib(spec))


def ends_failure(spec: ConsumerSpec, health: Health | None, held_mib: int | None, footprint_mib: int) -> bool:
    """Whether a consumer whose last load failed is loaded all the same, so that what it holds is more than a remainder.

    Args:
        spec: the consumer as configured.
        health: its last health answer; None where there is none.
        held_mib: MiB that its processes hold; None where the reading cannot say.
        footprint_mib: MiB that it needs.
    """
    if health is not None and (is_denied(health) or health.failed):
        return False
    says_loaded = health is not None and health.loaded is True
    holds_all = held_mib is not None and held_mib >= SHOWN_SHARE * footprint_mib
    return holds_all or (says_loaded and (held_mib is None or holds_model(spec, held_mib)))


def is_denied(health: Health) -> bool:
    """Whether the server runs, but its health route cannot be asked: it wants a key, leads elsewhere, or has no such
    route. Requests to wait (408, 425, 429) are none of that."""
    return 300 <= health.status < 500 and not health.reachable and health.status not in PASSING_STATUS


DENIED_STATUS = frozenset({401, 403})
PASSING_STATUS = frozenset({408, 425, 429})


def infer_residency(
    spec: ConsumerSpec, unit: UnitState | None, health: Health | None, held_mib: int | None
) -> Residency:
    """Infer a consumer's residency from observations alone, whatever it was before.

    Args:
        spec: the consumer as configured.
        unit: state of its unit; None where it has none or systemd does not answer.
        health: the answer of its health route; None where it has none or was not probed.
        held_mib: MiB that its processes hold; None where the reading cannot say.
    """
    if unit is not None and unit.activity in _BY_ACTIVITY:
        return _BY_ACTIVITY[unit.activity]
    if health is not None and health.loading:
        return Residency.LOADING
    if health is not None and health.loaded is not None:
        return Residency.RESIDENT if health.loaded else _without_model(spec, unit, health)
    return _infer_unreported(spec, unit, health, held_mib)


def _infer_unreported(
    spec: ConsumerSpec, unit: UnitState | None, health: Health | None, held_mib: int | None
) -> Residency:
    """The consumer does not report it: use its VRAM, or else whether anything runs that could hold a model."""
    if held_mib is not None and holds_model(spec, held_mib):
        return Residency.RESIDENT
    if unit is not None and unit.activity is UnitActivity.ACTIVE and _is_loaded_while_running(spec):
        # systemd calls a simple unit active from its first moment on; while its server does not listen yet it loads.
        # One that was not asked yet may be dead under its active unit.
        is_answering = spec.health is None if health is None else health.reachable
        return Residency.RESIDENT if is_answering else Residency.LOADING
    if held_mib is not None or (health is not None and health.refused):
        return _without_model(spec, unit, health)
    return Residency.UNKNOWN


def _without_model(spec: ConsumerSpec, unit: UnitState | None, health: Health | None) -> Residency:
    """The residency without a model in VRAM: a running server that parks its weights has them in host RAM."""
    is_active = unit is not None and unit.activity is UnitActivity.ACTIVE
    runs = is_active if health is None else health.reachable
    return Residency.PARKED if spec.parks and runs else Residency.UNLOADED


def _is_loaded_while_running(spec: ConsumerSpec) -> bool:
    """Whether the unit is nothing but its model (llama-server): while it runs it is loaded, or about to be."""
    return not spec.lazy and spec.load is None
