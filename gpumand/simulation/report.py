"""Metrics of a simulation result, and their ratios to a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpumand.domain.consumer import Overlap, Policy, SchedulerSettings
from gpumand.simulation.outcome import SimulationResult

ADAPTIVE_WITH_OVERLAP = "adaptive+overlap"
POLICY_NAMES = (*(str(one) for one in Policy), ADAPTIVE_WITH_OVERLAP)
"""Names of the policies that can be compared, including adaptive with loads that overlap leases."""


def settings_for(name: str, base: SchedulerSettings) -> SchedulerSettings:
    """The scheduler settings for a name in ``POLICY_NAMES``."""
    if name == ADAPTIVE_WITH_OVERLAP:
        return replace(base, policy=Policy.ADAPTIVE, overlap=Overlap.ON)
    return replace(base, policy=Policy(name))


@dataclass(frozen=True, slots=True)
class Metrics:
    """Metrics of one simulation; waiting times in seconds."""

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

    def as_json(self, policy: str, baseline: Metrics | None) -> dict[str, Any]:
        """The metrics as a JSON object, with ratios where a baseline is given."""
        plain: dict[str, Any] = {"policy": policy, "requests": self.requests, "refused": self.refused}
        for name in ("mean_wait_sec", "p50", "p95", "p99", "max_wait_sec", "total_wait_sec"):
            plain[name] = round(getattr(self, name), 3)
        plain |= {"evictions": self.evictions, "loads": self.loads, "load_seconds": round(self.load_seconds, 3)}
        if baseline is not None:
            plain["ratios"] = {
                name: None if value is None else round(value, 4) for name, value in self.ratios_to(baseline).items()
            }
        return plain

    def ratios_to(self, baseline: Metrics) -> Mapping[str, float | None]:
        """Each metric divided by that of the baseline; None where that is 0."""
        names = ("mean_wait_sec", "p50", "p95", "p99", "max_wait_sec", "total_wait_sec", "evictions", "load_seconds")
        return {name: _ratio(getattr(self, name), getattr(baseline, name)) for name in names}


def _ratio(ours: float, baseline: float) -> float | None:
    return ours / baseline if baseline else None


def metrics_of(outcome: SimulationResult) -> Metrics:
    """Calculate the metrics of a simulation result."""
    waits = sorted(one.wait_sec for one in outcome.served if one.granted_at is not None)
    return Metrics(
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
    """The percentile of ascending values; 0 without values."""
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else 0.0
