"""The latest observations of a consumer, and comparisons of them with newer ones."""

from __future__ import annotations

from dataclasses import dataclass

from gpumand.domain.consumer import ConsumerSpec, Health, UnitActivity, UnitState


@dataclass(slots=True)
class Observations:
    """The latest observations of one consumer; times are monotonic seconds.

    Attributes:
        spec: the consumer as configured at that time.
        unit, unit_observed_at: state of its unit.
        health, health_requested_at: its health answer.
        held_mib, grew_at: MiB that its processes hold, and when that last grew.
        claimed_at, shown_mib: its claim, and the most memory that readings have shown for it since.
        is_misplaced: it was found on a device that its configuration does not name.
        new_run_at: when its unit was found in a new run.
    """

    spec: ConsumerSpec
    unit: UnitState | None = None
    unit_observed_at: float = float("-inf")
    health: Health | None = None
    health_requested_at: float = float("-inf")
    held_mib: int = 0
    grew_at: float = float("inf")
    claimed_at: float | None = None
    shown_mib: int = 0
    is_misplaced: bool = False
    new_run_at: float = float("-inf")


def is_starting(unit: UnitState | None) -> bool:
    """Whether a unit is in its start phase; False if its state is unknown."""
    return unit is not None and unit.activity is UnitActivity.ACTIVATING


def is_new_run(former: UnitState, now: UnitState) -> bool:
    """Whether a unit is in a new run. A unit that was running before the first observation does not count."""
    return now.activity is UnitActivity.ACTIVE and now.invocation_id != former.invocation_id


def sources_of(spec: ConsumerSpec) -> tuple[object, ...]:
    """The part of a configuration that decides where its observations come from."""
    return spec.unit, spec.url, spec.health
