"""Parameters of a simulation, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field

from gpumand.simulation.demand import Use


@dataclass(frozen=True, slots=True)
class SimulationParameters:
    """Effects that are simulated in addition to loads, evictions and leases.

    Attributes:
        slowdown: share by which work takes longer while a consumer is loaded on the same device (0.2 = 20 %).
    """

    slowdown: float = 0.0


@dataclass(slots=True)
class UseResult:
    """The result of one use.

    Attributes:
        use: the use.
        granted_at: time of the grant; None = it was refused.
        ended_at: time at which its work ended.
        overtaken_sec: seconds of work of later requests that overtook it.
    """

    use: Use
    granted_at: float | None = None
    ended_at: float | None = None
    overtaken_sec: float = 0.0

    @property
    def wait_sec(self) -> float:
        """Seconds from arrival to grant; 0 for a refused use."""
        return 0.0 if self.granted_at is None else self.granted_at - self.use.t


@dataclass(slots=True)
class SimulationResult:
    """The result of a simulation.

    Attributes:
        served: results of all uses, in order of arrival.
        evicted: consumers that were evicted, in order.
        loads: number of loads.
        load_seconds: total seconds spent loading.
    """

    served: list[UseResult] = field(default_factory=list)
    evicted: list[str] = field(default_factory=list)
    loads: int = 0
    load_seconds: float = 0.0

    @property
    def evictions(self) -> int:
        """Number of evictions."""
        return len(self.evicted)
