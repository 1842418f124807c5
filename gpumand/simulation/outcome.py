"""What a simulated world is like, and what became of the demand in it."""

from __future__ import annotations

from dataclasses import dataclass, field

from gpumand.simulation.demand import Use


@dataclass(frozen=True, slots=True)
class World:
    """How the simulated world differs from the plain one.

    Attributes:
        slowdown: how much longer work takes while something is loaded on its device (0.2 = a fifth).
    """

    slowdown: float = 0.0


@dataclass(slots=True)
class Served:
    """What became of a use.

    Attributes:
        use: which one.
        granted_at: when it could work; None = it was refused.
        ended_at: when it had worked.
        overtaken_sec: seconds of work that were let past it.
    """

    use: Use
    granted_at: float | None = None
    ended_at: float | None = None
    overtaken_sec: float = 0.0

    @property
    def wait_sec(self) -> float:
        """From its coming to its being granted."""
        return 0.0 if self.granted_at is None else self.granted_at - self.use.t


@dataclass(slots=True)
class Outcome:
    """What became of all.

    Attributes:
        served: every use, in the order of coming.
        evicted: who was evicted, in order.
        loads: how many.
        load_seconds: seconds spent loading.
    """

    served: list[Served] = field(default_factory=list)
    evicted: list[str] = field(default_factory=list)
    loads: int = 0
    load_seconds: float = 0.0

    @property
    def evictions(self) -> int:
        """How many."""
        return len(self.evicted)
