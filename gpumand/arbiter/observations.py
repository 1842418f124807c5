"""The latest observations of a consumer, and comparisons of them with newer ones."""

from __future__ import annotations

from dataclasses import dataclass

from gpumand.domain.consumer import ConsumerSpec, Health, UnitActivity, UnitState

DOWN = frozenset({UnitActivity.INACTIVE, UnitActivity.FAILED})


@dataclass(slots=True)
class Observations:
    """The latest observations of one consumer; times are monotonic seconds.

    Attributes:
        spec: the consumer as configured at that time.
        unit, unit_observed_at: state of its unit, or of its container: of a consumer with both, the container counts
            while it runs although the unit has ended, as after ``docker run -d`` or when the client was killed.
        own_unit, own_unit_at: state of its unit alone.
        down_since: since when its unit is inactive or failed.
        container, container_at: state of its container alone.
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
    own_unit: UnitState | None = None
    own_unit_at: float = float("-inf")
    down_since: float = float("-inf")
    container: UnitState | None = None
    container_at: float = float("-inf")

    def record(self, service: UnitState, now: float) -> bool:
        """Store the state of its unit or its container at a moment; returns whether it is in a new run."""
        if service.unit == self.spec.unit:
            if service.activity in DOWN and (self.own_unit is None or self.own_unit.activity not in DOWN):
                self.down_since = now
            self.own_unit, self.own_unit_at = service, now
        else:
            self.container, self.container_at = service, now
        former = self.unit
        self.unit, self.unit_observed_at = self._decisive()
        return former is not None and self.unit is not None and is_new_run(former, self.unit)

    def loading_since(self, now: float) -> float:
        """Since when a consumer that seems to be loading has been loading.

        A unit that was active before the daemon has had that time to load. A server that says itself that it is loading
        can have begun at any time.
        """
        active_since = self._active_since()
        says_loading = self.health is not None and self.health.loading
        return now if active_since is None or says_loading else min(now, active_since)

    def has_started(self, now: float) -> bool:
        """Whether its unit has been active for so long that its server must have listened."""
        active_since = self._active_since()
        return active_since is not None and now - active_since > self.spec.load_timeout_sec

    def _active_since(self) -> float | None:
        is_active = self.unit is not None and self.unit.activity is UnitActivity.ACTIVE
        return self.unit.active_since if self.unit is not None and is_active else None

    def _decisive(self) -> tuple[UnitState | None, float]:
        """The state that decides, and when it was observed."""
        if not self.spec.unit or self._is_left_running():
            return self.container, self.container_at
        return self.own_unit, self.own_unit_at

    def _is_left_running(self) -> bool:
        """Whether its container was found running after its unit had ended."""
        if self.own_unit is None or self.container is None or self.own_unit.activity not in DOWN:
            return False
        return self.container.activity not in DOWN and self.container_at >= self.down_since


def is_starting(unit: UnitState | None) -> bool:
    """Whether a unit is in its start phase; False if its state is unknown."""
    return unit is not None and unit.activity is UnitActivity.ACTIVATING


def is_new_run(former: UnitState, now: UnitState) -> bool:
    """Whether a unit is in a new run. A unit that was running before the first observation does not count.

    A run has its id during its start phase already, if that was observed.
    """
    is_other = former.activity is UnitActivity.ACTIVATING or now.invocation_id != former.invocation_id
    return now.activity is UnitActivity.ACTIVE and is_other


def sources_of(spec: ConsumerSpec) -> tuple[object, ...]:
    """The part of a configuration that decides where its observations come from."""
    return spec.unit, spec.controlled_container, spec.url, spec.health
