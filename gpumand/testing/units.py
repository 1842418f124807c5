"""An in-memory implementation of the UnitManager port, deterministic on the test's clock, with failures on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from gpumand.domain.consumer import UnitActivity, UnitState
from gpumand.ports import Clock, UnitFailed


@dataclass(slots=True)
class FakeUnit:
    """A unit and its behaviour; a test may change any field at any time.

    Attributes:
        name: unit name with its type suffix.
        activity: current state; change it with ``FakeUnits.become``, which notifies watchers.
        load_state: "loaded", "not-found", "masked" …
        result: result of the last run.
        invocation: number of runs; the invocation id is derived from it.
        restarts: how often systemd restarted it by itself.
        active_since: when it became active, in monotonic seconds; None = unknown.
        start_delay_sec, stop_delay_sec: duration of a start and of a stop.
        start_failure, stop_failure: raised at the end of the delay instead of success.
        pids: processes that run in the unit.
        lines: its last log lines.
        started, stopped: called after a start or stop, before the caller continues.
    """

    name: str
    activity: UnitActivity = UnitActivity.INACTIVE
    load_state: str = "loaded"
    result: str = "success"
    invocation: int = 0
    restarts: int = 0
    active_since: float | None = None
    start_delay_sec: float = 0.0
    stop_delay_sec: float = 0.0
    start_failure: UnitFailed | None = None
    stop_failure: UnitFailed | None = None
    pids: set[int] = field(default_factory=set)
    lines: tuple[str, ...] = ()
    started: Callable[[], object] = lambda: None
    stopped: Callable[[], object] = lambda: None

    @property
    def state(self) -> UnitState:
        """The state of the unit as the port returns it."""
        invocation_id = f"{self.invocation:032x}" if self.invocation else ""
        return UnitState(
            self.name, self.activity, self.load_state, self.result, invocation_id, self.restarts, self.active_since
        )


class FakeUnits:
    """A UnitManager with in-memory units.

    Attributes:
        units: units by name; any other unit has the load state "not-found".
        calls: ("start" or "stop", unit) of all calls, in order.
        unavailable: if True, systemd does not answer.
        before_start, after_start: called with the name of a unit that ``start`` starts, before and after its own hook.
        after_end: called with the name of a unit that is inactive or failed.
    """

    def __init__(self, clock: Clock, units: Iterable[FakeUnit | str] = ()) -> None:
        self.units = {unit.name: unit for unit in map(_as_unit, units)}
        self.calls: list[tuple[str, str]] = []
        self.unavailable = False
        self.before_start: Callable[[str], None] = lambda unit: None
        self.after_start: Callable[[str], None] = lambda unit: None
        self.after_end: Callable[[str], None] = lambda unit: None
        self._clock = clock
        self._watched: frozenset[str] = frozenset()
        self._changed: Callable[[UnitState], None] = lambda state: None

    def become(self, unit: str, activity: UnitActivity, result: str = "success") -> None:
        """Change the state of a unit as an external action would, and notify its watcher."""
        fake = self.units[unit]
        starting, active = UnitActivity.ACTIVATING, UnitActivity.ACTIVE
        if activity in (starting, active) and fake.activity not in (starting, activity):
            fake.invocation += 1  # systemd gives a run its id before ExecStartPre=
        if activity is active and fake.activity is not active:
            fake.active_since = self._clock.monotonic()
        changes = fake.activity is not activity or fake.result != result
        fake.activity, fake.result = activity, result
        if activity in (UnitActivity.INACTIVE, UnitActivity.FAILED):
            self.after_end(unit)
        if changes and unit in self._watched:
            self._changed(fake.state)

    async def state(self, unit: str) -> UnitState:
        """Return the current state of a unit."""
        self._require_available()
        fake = self.units.get(unit)
        return UnitState(unit, UnitActivity.INACTIVE, "not-found") if fake is None else fake.state

    async def report_states(
        self, units: Iterable[str], report: Callable[[UnitState], None]
    ) -> Mapping[str, UnitFailed]:
        """Report the state of each unit; returns why the others are unknown."""
        failures = {}
        for unit in sorted(set(units)):
            try:
                report(await self.state(unit))
            except UnitFailed as failed:
                failures[unit] = failed
        return failures

    async def start(self, unit: str, timeout_sec: float) -> None:
        """Start a unit; takes its start delay."""
        self.calls.append(("start", unit))
        fake = self._find(unit)
        if fake.activity is UnitActivity.ACTIVE:
            return
        self.become(unit, UnitActivity.ACTIVATING)
        await self._delay(fake.start_delay_sec, timeout_sec, unit, "start")
        if fake.start_failure is not None:
            self.become(unit, UnitActivity.FAILED, "exit-code")
            raise fake.start_failure
        self.become(unit, UnitActivity.ACTIVE)
        self.before_start(unit)
        fake.started()
        self.after_start(unit)

    async def stop(self, unit: str, timeout_sec: float) -> None:
        """Stop a unit; takes its stop delay."""
        self.calls.append(("stop", unit))
        self._require_available()
        fake = self.units.get(unit)
        if fake is None or fake.activity in (UnitActivity.INACTIVE, UnitActivity.FAILED):
            return
        former = fake.activity
        self.become(unit, UnitActivity.DEACTIVATING)
        await self._delay(fake.stop_delay_sec, timeout_sec, unit, "stop")
        if fake.stop_failure is not None:
            self.become(unit, former)
            raise fake.stop_failure
        self.become(unit, UnitActivity.INACTIVE)
        fake.stopped()

    async def unit_of_pid(self, pid: int) -> str:
        """Return the unit whose ``pids`` contain this pid, or ""."""
        found = (unit.name for unit in self.units.values() if pid in unit.pids)
        return "" if self.unavailable else next(found, "")

    async def failure_lines(self, unit: str, invocation_id: str = "") -> tuple[str, ...]:
        """Return the log lines that the test has set."""
        fake = self.units.get(unit)
        return fake.lines if fake is not None else ()

    async def watch(self, units: Iterable[str], changed: Callable[[UnitState], None]) -> None:
        """Report the current state of each newly watched unit, and every later change."""
        former, self._watched, self._changed = self._watched, frozenset(units), changed
        for unit in sorted(self._watched - former):
            if not self.unavailable:
                changed(await self.state(unit))

    def _require_available(self) -> None:
        if self.unavailable:
            raise UnitFailed("no systemd on this bus", "unavailable")

    def _find(self, unit: str) -> FakeUnit:
        self._require_available()
        fake = self.units.get(unit)
        load_state = "not-found" if fake is None else fake.load_state
        if fake is None or load_state in ("not-found", "masked", "bad-setting"):
            raise UnitFailed(f"{unit} is {load_state}", load_state)
        return fake

    async def _delay(self, delay_sec: float, timeout_sec: float, unit: str, verb: str) -> None:
        await self._clock.sleep(min(delay_sec, timeout_sec))
        if delay_sec > timeout_sec:
            raise UnitFailed(f"{unit} did not {verb} within {timeout_sec:g} s", "timeout")


def _as_unit(unit: FakeUnit | str) -> FakeUnit:
    return unit if isinstance(unit, FakeUnit) else FakeUnit(unit)
