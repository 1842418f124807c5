"""What came of a simulation, in figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpumand.domain.consumer import Overlap, Policy, SchedulerSettings
from gpumand.simulation.outcome import Outcome

OVERLAPPING = "adaptive+overlap"
NAMES = (*(str(one) for one in Policy), OVERLAPPING)
"""What can be compared: the policies, and adaptive with loads beside leases."""


def settings_for(name: str, base: SchedulerSettings) -> SchedulerSettings:
    """The setting that a name of ``NAMES`` stands for."""
    if name == OVERLAPPING:
        return replace(base, policy=Policy.ADAPTIVE, overlap=Overlap.ON)
    return replace(base, policy=Policy(name))


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one run; waits in seconds."""

    requests: int
    refused: int
    mean_wait_sec: float
    p50: float
    p95: float
    p99: float
    max_wait_sec: float
    total_wait_sec: float
    evictions: int
    loads: int
    load_seconds: float

    def as_json(self, policy: str, first: Figures | None) -> dict[str, Any]:
        """As one object, with what it is of the first's where there is another."""
        plain: dict[str, Any] = {"policy": policy, "requests": self.requests, "refused": self.refused}
        for name in ("mean_wait_sec", "p50", "p95", "p99", "max_wait_sec", "total_wait_sec"):
            plain[name] = round(getattr(self, name), 3)
        plain |= {"evictions": self.evictions, "loads": self.loads, "load_seconds": round(self.load_seconds, 3)}
        if first is not None:
            plain["ratios"] = {
                name: None if value is None else round(value, 4) for name, value in self.of(first).items()
            }
        return plain

    def of(self, first: Figures) -> Mapping[str, float | None]:
        """Each figure divided by the first's; None where that is 0."""
        names = ("mean_wait_sec", "p50", "p95", "p99", "max_wait_sec", "total_wait_sec", "evictions", "load_seconds")
        return {name: _ratio(getattr(self, name), getattr(first, name)) for name in names}


def _ratio(ours: float, first: float) -> float | None:
    return ours / first if first else None


def figures_of(outcome: Outcome) -> Figures:
    """The figures of an outcome."""
    waits = sorted(one.wait_sec for one in outcome.served if one.granted_at is not None)
    return Figures(
        requests=len(waits),
        refused=len(outcome.served) - len(waits),
        mean_wait_sec=sum(waits) / len(waits) if waits else 0.0,
        p50=percentile(waits, 50),
        p95=percentile(waits, 95),
        p99=percentile(waits, 99),
        max_wait_sec=waits[-1] if waits else 0.0,
        total_wait_sec=sum(waits, 0.0),
        evictions=outcome.evictions,
        loads=outcome.loads,
        load_seconds=outcome.load_seconds,
    )


def percentile(ordered: Sequence[float], percent: int) -> float:
    """The first that is preceded by so many percent of all; 0 of nothing."""
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0
