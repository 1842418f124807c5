"""What is seen corrects what is believed.

Three witnesses speak of a consumer: its unit, its health route, NVML. Each is kept with the moment at which it was
asked, and what was asked before our own last move says nothing any more. While a job loads or evicts a consumer its
residency is the job's business, and witnesses are only heard, not believed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from gpumand.arbiter.books import Books
from gpumand.domain.consumer import Health, Residency, UnitActivity, UnitState
from gpumand.domain.residency import residency_from_facts
from gpumand.domain.view import ConsumerState

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Witnesses:
    unit: UnitState | None = None
    health: Health | None = None
    health_asked_at: float = float("-inf")


class Facts:
    """Keeps the witnesses' last words and draws the conclusions."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._heard: dict[str, _Witnesses] = {}

    def note_unit(self, state: UnitState) -> None:
        """A unit changed, or was asked. More than one consumer never shares one."""
        for consumer in list(self._books.ledger.consumers.values()):
            if consumer.spec.unit == state.unit:
                self._witnesses(consumer.name).unit = state
                self.conclude(consumer.name)

    def note_health(self, name: str, health: Health, asked_at: float) -> None:
        """A consumer was probed.

        Args:
            name: which one; one that is no longer configured is ignored.
            health: what it said.
            asked_at: monotonic seconds at which the probe began.
        """
        if name not in self._books.ledger.consumers:
            return
        heard = self._witnesses(name)
        heard.health, heard.health_asked_at = health, asked_at
        if health.last_used_usec is not None and health.last_used_usec != self._books.state(name).probed_usec:
            self._books.ledger.update(name, probed_usec=health.last_used_usec)
        self.conclude(name)

    def conclude_all(self) -> None:
        """Draw the conclusions for everybody, after a new reading."""
        for name in list(self._books.ledger.consumers):
            self.conclude(name)

    def forget_missing(self) -> None:
        """Forget witnesses of consumers that are no longer configured, or whose unit is another one now."""
        for name, heard in list(self._heard.items()):
            state = self._books.ledger.consumers.get(name)
            if state is None or (heard.unit is not None and heard.unit.unit != state.spec.unit):
                del self._heard[name]

    def conclude(self, name: str) -> None:
        """Bring one consumer's residency in line with what is seen."""
        state = self._books.state(name)
        if self._is_in_a_job(state):
            return
        self._locate(state)
        self._note_shown(name)
        self._books.ledger.unclaim(name, self._books.clock.monotonic())
        state = self._books.state(name)
        seen = self._what_is_seen(state)
        if seen is not state.residency:
            self._move_to(state, seen)

    def _is_in_a_job(self, state: ConsumerState) -> bool:
        if state.residency is Residency.UNLOADING or (state.residency is Residency.LOADING and not state.unasked):
            return any(
                state.name == job.consumer or state.name in job.evicting for job in self._books.ledger.jobs.values()
            )
        return False

    def _what_is_seen(self, state: ConsumerState) -> Residency:
        heard = self._witnesses(state.name)
        health = heard.health if heard.health_asked_at >= state.changed_at else None
        seen = residency_from_facts(state.spec, heard.unit, health, self._held_mib(state))
        unit_is_down = heard.unit is not None and seen is Residency.UNLOADED and not _runs(heard.unit)
        return self._weigh(state, seen, unit_is_down=unit_is_down)

    def _weigh(self, state: ConsumerState, seen: Residency, *, unit_is_down: bool) -> Residency:
        """Where a fact is weaker than what we know, what we know stays."""
        believed = state.residency
        if seen is Residency.UNKNOWN and believed in (Residency.RESIDENT, Residency.UNLOADED, Residency.FAILED):
            return believed  # no witness says anything: no reason to forget
        if seen is Residency.UNLOADED and believed is Residency.FAILED:
            return believed  # it failed, and is not loaded: no contradiction
        if seen is Residency.UNLOADED and believed is Residency.RESIDENT and state.claimed and state.spec.lazy:
            return Residency.UNLOADED if unit_is_down else believed  # its first request has yet to come, or to load it
        if seen is Residency.LOADING and self._has_loaded_long_enough(state):
            return Residency.RESIDENT
        return seen

    def _has_loaded_long_enough(self, state: ConsumerState) -> bool:
        """A resident that does not answer is busy or hung, not loading; nor does anything load for ever.

        Were it taken for loading, it could never be evicted and would keep everybody else from the device.
        """
        if state.residency is Residency.RESIDENT:
            unit = self._witnesses(state.name).unit
            return unit is not None and unit.activity is UnitActivity.ACTIVE
        is_loading = state.residency is Residency.LOADING and state.unasked
        return is_loading and self._books.clock.monotonic() - state.idle_since > state.spec.load_timeout_sec

    def _move_to(self, state: ConsumerState, seen: Residency) -> None:
        name = state.name
        log.info("consumer %s is %s, not %s", name, seen, state.residency)
        self._books.set_residency(name, seen, error="" if seen is Residency.RESIDENT else None)
        if seen is Residency.LOADING:
            # Somebody else started it. It takes its room whether we like it or not, so it is accounted for.
            device = state.device if state.device is not None else self._likely_device(state)
            self._books.ledger.update(name, unasked=True)
            self._books.ledger.claim(name, device, self._books.clock.monotonic())
            return
        self._books.ledger.update(name, unasked=False)
        if seen is Residency.RESIDENT:
            self._books.ledger.update(name, failures=0, retry_at=0.0, shown=True)
        self._books.ledger.unclaim(name, self._books.clock.monotonic())

    def _likely_device(self, state: ConsumerState) -> int:
        wanted = state.spec.device
        for index, sample in self._books.ledger.devices.items():
            if wanted and wanted in (str(index), sample.uuid):
                return index
        by_free = sorted(self._books.ledger.devices.values(), key=lambda sample: -(sample.free_mib or 0))
        return by_free[0].index

    def _locate(self, state: ConsumerState) -> None:
        """Where its processes are is where it is; a claim made elsewhere stays where it was made."""
        held = {index: sample.held_by(state.name) or 0 for index, sample in self._books.ledger.devices.items()}
        most = max(held, key=lambda index: held[index])
        if held[most] and most != state.device and not state.claimed:
            self._books.ledger.update(state.name, device=most)

    def _held_mib(self, state: ConsumerState) -> int | None:
        """MiB it holds on all devices it may be on; None where none of them can tell."""
        samples = self._books.ledger.devices.values()
        figures = [sample.held_by(state.name) for sample in samples if sample.taken_at >= state.changed_at]
        known = [mib for mib in figures if mib is not None]
        return sum(known) if known and len(known) == len(figures) else (sum(known) or None)

    def _note_shown(self, name: str) -> None:
        """Once (nearly) its whole footprint has been seen, or it says that it is loaded, live figures contain it."""
        state = self._books.state(name)
        if not state.claimed or state.shown or state.device is None:
            return
        held_mib = self._books.device(state.device).held_by(name)
        heard = self._witnesses(name)
        said_so = heard.health is not None and heard.health.loaded is True and heard.health_asked_at >= state.changed_at
        if said_so or (held_mib is not None and held_mib >= state.footprint_mib * 0.9):
            self._books.ledger.update(name, shown=True)

    def _witnesses(self, name: str) -> _Witnesses:
        return self._heard.setdefault(name, _Witnesses())


def _runs(unit: UnitState) -> bool:
    return unit.activity in (UnitActivity.ACTIVE, UnitActivity.ACTIVATING, UnitActivity.DEACTIVATING)
