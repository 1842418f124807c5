"""An in-memory UnitManager: deterministic, on the test's clock, with every failure at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gpumand.domain.consumer import UnitActivity, UnitState
from gpumand.ports import Clock, UnitFailed


@dataclass(slots=True)
class FakeUnit:
    """A unit and how it behaves; tests set these as they like, also while it runs.

    Attributes:
        name: with its suffix.
        activity: what it is now; change it by ``FakeUnits.become``, which tells who watches.
        load_state: "loaded", "not-found", "masked" …
        result: of its last run.
        invocation: counts its runs; its invocation id is made of it.
        start_delay_sec, stop_delay_sec: how long a start or stop takes.
        start_failure, stop_failure: raised at the end of the delay in place of success.
        pids: processes that are said to run in it.
        lines: its last log lines.
        started, stopped: called when it has been started or stopped, before the caller hears of it.
    """

    name: str
    activity: UnitActivity = UnitActivity.INACTIVE
    load_state: str = "loaded"
    result: str = "success"
    invocation: int = 0
    start_delay_sec: float = 0.0
    stop_delay_sec: float = 0.0
    start_failure: UnitFailed | None = None
    stop_failure: UnitFailed | None = None
    pids: set[int] = field(default_factory=set)
    lines: tuple[str, ...] = ()
    started: Callable[[], None] = lambda: None
    stopped: Callable[[], None] = lambda: None

    @property
    def state(self) -> UnitState:
        """As the port tells it."""
        invocation_id = f"{self.invocation:032x}" if self.invocation else ""
        return UnitState(self.name, self.activity, self.load_state, self.result, invocation_id)


class FakeUnits:
    """The UnitManager port over FakeUnits.

    Attributes:
        units: by name; asking for one that is not there finds it "not-found".
        calls: ("start" or "stop", unit) in the order in which they were made.
        unavailable: systemd cannot be asked at all.
    """

    def __init__(self, clock: Clock, units: Iterable[FakeUnit | str] = ()) -> None:
        self.units = {unit.name: unit for unit in map(_as_unit, units)}
        self.calls: list[tuple[str, str]] = []
        self.unavailable = False
        self._clock = clock
        self._watched: frozenset[str] = frozenset()
        self._changed: Callable[[UnitState], None] = lambda state: None

    def become(self, unit: str, activity: UnitActivity, result: str = "success") -> None:
        """Let a unit change, as if by another hand; whoever watches it is told."""
        fake = self.units[unit]
        if activity is UnitActivity.ACTIVE and fake.activity is not UnitActivity.ACTIVE:
            fake.invocation += 1
        changes = fake.activity is not activity or fake.result != result
        fake.activity, fake.result = activity, result
        if changes and unit in self._watched:
            self._changed(fake.state)

    async def state(self, unit: str) -> UnitState:
        """What the unit is now."""
        self._require_available()
        fake = self.units.get(unit)
        return UnitState(unit, UnitActivity.INACTIVE, "not-found") if fake is None else fake.state

    async def start(self, unit: str, timeout_sec: float) -> None:
        """Start it, after its delay."""
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
        fake.started()

    async def stop(self, unit: str, timeout_sec: float) -> None:
        """Stop it, after its delay."""
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
        """The unit that has this pid among its own."""
        found = (unit.name for unit in self.units.values() if pid in unit.pids)
        return "" if self.unavailable else next(found, "")

    async def failure_lines(self, unit: str) -> tuple[str, ...]:
        """The lines that the test gave it."""
        fake = self.units.get(unit)
        return fake.lines if fake is not None else ()

    async def watch(self, units: Iterable[str], changed: Callable[[UnitState], None]) -> None:
        """Tell what each is now, then every change."""
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
