"""Builders of the values that the scheduling rules work on."""

from __future__ import annotations

from typing import Any

from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, Route, SchedulerSettings
from gpumand.domain.device import ProcessUse, Sample
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState, Job, View

TOTAL_MIB = 24564


def spec(name: str, mib: int, **more: Any) -> ConsumerSpec:
    """A consumer with an unload route, a load route and a unit; keywords override fields."""
    defaults: dict[str, Any] = {
        "unit": f"{name}.service",
        "url": "http://127.0.0.1:1",
        "load": Route("/load"),
        "unload": Route("/unload"),
        "evict": (EvictionMethod.HTTP, EvictionMethod.UNIT_STOP),
    }
    return ConsumerSpec(name, mib, **(defaults | more))


def resident(
    name: str, mib: int, *, used_at: int = 0, leases: int = 0, pinned: bool = False, **more: Any
) -> ConsumerState:
    """A consumer that is loaded on device 0."""
    state = absent(name, mib, **more)
    return ConsumerState(
        state.spec,
        residency=Residency.RESIDENT,
        devices=(0,),
        leases=leases,
        pinned=pinned,
        lease_ended_usec=used_at,
        claimed_at=1.0 if leases else None,
        footprint_seen=True,
    )


def absent(name: str, mib: int, **more: Any) -> ConsumerState:
    """A consumer that is not loaded."""
    return ConsumerState(spec(name, mib, **more), residency=Residency.UNLOADED)


def view(
    *states: ConsumerState,
    held: dict[str, int] | None = None,
    foreign_mib: int = 0,
    total_mib: int | None = TOTAL_MIB,
    known: bool = True,
    attributed: bool = True,
    jobs: dict[int, Job] | None = None,
    now: float = 1000.0,
    evict_failed: frozenset[str] = frozenset(),
    **settings: Any,
) -> View:
    """A view with one device on which residents hold their footprints, or the MiB given in ``held``."""
    held_mib = {one.name: one.footprint_mib for one in states if one.residency is Residency.RESIDENT} | (held or {})
    processes = tuple(
        ProcessUse(100 + number, mib, name, f"{name}.service", name if attributed else "")
        for number, (name, mib) in enumerate(held_mib.items())
    )
    if foreign_mib:
        processes += (ProcessUse(99, foreign_mib, "firefox", "session-1.scope"),)
    used_mib = sum(held_mib.values()) + foreign_mib
    sample = Sample(
        index=0,
        uuid="GPU-0",
        name="Test GPU",
        source="test",
        total_mib=total_mib,
        used_mib=used_mib if known else None,
        free_mib=(total_mib or 0) - used_mib if known else None,
        processes=processes if known else (),
        attributed=known and attributed,
        attributable=frozenset(one.name for one in states) if known and attributed else frozenset(),
    )
    leased = sum(1 for one in states for _ in range(one.leases))
    return View(
        settings=SchedulerSettings(**settings),
        devices={0: sample},
        consumers={one.name: one for one in states},
        leases={0: leased} if leased else {},
        jobs=jobs or {},
        now=now,
        evict_failed=evict_failed,
    )
