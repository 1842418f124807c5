"""What is seen of consumers is learned: how much they hold, and how long everything takes with them.

Nothing is measured for its own sake: figures that were read for decisions are looked at once more, and whoever does
something says how long it took. What is learned stands in the books, where decisions find it, and outlives restarts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gpumand.arbiter.state import ArbiterState
from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, Residency
from gpumand.domain.events import Event, EvictionOccurred, EvictionReport, LeaseEnded, LoadFinished
from gpumand.domain.eviction_check import SLACK_MIB
from gpumand.domain.footprint import AT_REST_SEC, Footprint
from gpumand.domain.identity import identity
from gpumand.domain.learning import Learned, Start
from gpumand.domain.residency import CONTEXT_MIB
from gpumand.domain.view import ConsumerState
from gpumand.domain.wording import NO_FOOTPRINT
from gpumand.ports import Archive

log = logging.getLogger(__name__)

RESIDUAL_AFTER_SEC = 2.0
"""What is still there so long after an unload stays there: caches and contexts go a little later than weights."""

PEAK_STEP_MIB = 32
"""A peak that grows by less is not written down anew each time."""


@dataclass(slots=True)
class _Stay:
    """One stay in VRAM, as far as it has come.

    ``before`` is what was known before it; what it shows is added to that anew whenever it shows more.
    """

    before: Footprint
    held_mib: int
    since: float
    steady_mib: int | None = None
    peak_mib: int = 0
    noted_mib: tuple[int, int] = (0, 0)


class LearningRecorder:
    """Owns what is learned; ``look`` after every reading, the rest whenever something happened."""

    def __init__(self, arbiter_state: ArbiterState, archive: Archive) -> None:
        self._books = arbiter_state
        self._archive = archive
        self._stays: dict[str, _Stay] = {}
        self._unloaded_at: dict[str, float] = {}
        self._warned: dict[str, tuple[int, int]] = {}
        self._wanted: set[str] = set()
        self._ended_at: dict[str, float] = {}
        self._changed: set[str] = set()

    def note(self, event: Event) -> None:
        """Learn from what happened."""
        if isinstance(event, LeaseEnded):
            self._held(event)
        elif isinstance(event, LoadFinished) and not event.error:
            self._loaded(event)
        elif isinstance(event, EvictionOccurred):
            self._evicted(event.report)

    async def restore(self) -> None:
        """Take up what was learned before our start. Nothing that was kept keeps us from starting."""
        for name, record in (await self._archive.read_learned()).items():
            state = self._books.ledger.consumers.get(name)
            if state is not None:
                self._restore(state, record)

    async def recall(self, name: str) -> None:
        """Ask once more for one of whom nobody knows what it needs: the disk may have been silent at our start."""
        if self._is_unknown(name):
            record = (await self._archive.read_learned()).get(name)
            if record is not None and self._is_unknown(name):
                self._restore(self._books.state(name), record)

    def _is_unknown(self, name: str) -> bool:
        state = self._books.ledger.consumers.get(name)
        return state is not None and not state.footprint_known

    def warn_of_unknown(self) -> None:
        """Tell of whom nobody knows what they need."""
        for name in filter(self._is_unknown, self._books.ledger.consumers):
            log.warning("consumer %s is not lent: %s", name, NO_FOOTPRINT)

    def _restore(self, state: ConsumerState, record: Mapping[str, Any]) -> None:
        if record.get("is") != identity(state.spec):
            log.info("consumer %s is configured otherwise than when it was measured: it is measured anew", state.name)
            return
        try:
            memory, times = Footprint.from_record(record.get("memory", {})), Learned.from_record(record.get("times"))
        except (ValueError, TypeError, AttributeError) as error:
            log.warning("what was learned of %s cannot be read and is learned anew: %s", state.name, error)
            return
        self._books.ledger.update(state.name, memory=memory, times=times)

    def forget_changed(self, former: Mapping[str, ConsumerSpec]) -> None:
        """After a reload: what was learned of something else that had the same name says nothing."""
        for name, state in list(self._books.ledger.consumers.items()):
            if name in former and identity(former[name]) != identity(state.spec):
                self._stays.pop(name, None)
                self._learn(name, memory=Footprint(), times=Learned())

    # -- memory --------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Look at a new reading: who holds how much."""
        for state in list(self._books.ledger.consumers.values()):
            held_mib = self._held_mib(state.name)
            if held_mib is None:
                continue
            if state.residency is Residency.RESIDENT and held_mib > state.spec.residual_mib + _empty_mib(state.spec):
                self._note_stay(state, held_mib)
            elif state.residency is not Residency.RESIDENT:
                self._end_stay(state.name)
                self._note_residual(state, held_mib)

    def _held_mib(self, name: str) -> int | None:
        """What it holds on all devices, or where it needs several on the fullest one; None where not all can tell."""
        figures = [sample.held_by(name) for sample in self._books.ledger.devices.values()]
        known = [mib for mib in figures if mib is not None]
        if not known or len(known) < len(figures):
            return None
        return max(known) if self._books.state(name).spec.device_count > 1 else sum(known)

    def _note_stay(self, state: ConsumerState, held_mib: int) -> None:
        now = self._books.clock.monotonic()
        stay = self._stays.setdefault(state.name, _Stay(state.memory, held_mib, now))
        stay.peak_mib = max(stay.peak_mib, held_mib)
        if abs(held_mib - stay.held_mib) > SLACK_MIB:
            stay.held_mib, stay.since = held_mib, now
        elif now - stay.since >= AT_REST_SEC:
            stay.steady_mib = held_mib
        if not _may_yet_take_more(state, stay.peak_mib):
            self._learn_of(state.name, stay)

    def _end_stay(self, name: str) -> None:
        stay = self._stays.pop(name, None)
        if stay is not None:
            self._learn_of(name, stay)

    def _learn_of(self, name: str, stay: _Stay) -> None:
        """Add to what is known what a stay has shown since the last time."""
        if stay.steady_mib is not None and self._shows_more(stay, stay.steady_mib):
            stay.noted_mib = (stay.steady_mib, stay.peak_mib)
            self._learn(name, memory=stay.before.with_stay(stay.steady_mib, stay.peak_mib))
            self._warn(name)

    @staticmethod
    def _shows_more(stay: _Stay, steady_mib: int) -> bool:
        noted_steady_mib, noted_peak_mib = stay.noted_mib
        return abs(steady_mib - noted_steady_mib) > SLACK_MIB or stay.peak_mib - noted_peak_mib >= PEAK_STEP_MIB

    def _note_residual(self, state: ConsumerState, held_mib: int) -> None:
        at = self._unloaded_at.get(state.name)
        if at is None or state.residency not in (Residency.UNLOADED, Residency.PARKED):
            return
        if self._books.sampled_at - at >= RESIDUAL_AFTER_SEC:
            del self._unloaded_at[state.name]
            if not state.claimed:
                self._learn(state.name, memory=state.memory.with_residual(held_mib))

    def _warn(self, name: str) -> None:
        """A declared footprint that is wrong is told once, and again when it is wrong in another way."""
        state = self._books.state(name)
        declared_mib, peak_mib = state.spec.vram_resident_mib, state.memory.peak_mib
        if state.spec.vram_auto or peak_mib is None or not state.memory.contradicts(declared_mib):
            return
        warned_for_mib, warned_of_mib = self._warned.get(name, (0, 0))
        if warned_for_mib == declared_mib and abs(peak_mib - warned_of_mib) <= warned_of_mib // 10:
            return
        self._warned[name] = (declared_mib, peak_mib)
        log.warning(
            "consumer %s: vram_resident_mib is %d, but it held up to %d MiB; %s",
            name,
            declared_mib,
            peak_mib,
            "others may run out of memory" if peak_mib > declared_mib else "room is kept for it that it does not need",
        )

    # -- time ----------------------------------------------------------------------------------------------------

    def wanted(self, name: str) -> None:
        """A request for it has come; the first one after its last lease ends a time of idleness."""
        state = self._books.state(name)
        if state.worked_usec and not state.leases and name not in self._wanted:
            self._wanted.add(name)
            self._learn(name, times=state.times.observe_idle(self._idle_sec(state)))

    def _idle_sec(self, state: ConsumerState) -> float:
        """Since its last lease, suspends included; by the wall clock, which may be set, only over a start of ours."""
        if state.name in self._ended_at:
            return self._boot_sec() - self._ended_at[state.name]
        return (self._books.clock.realtime_usec() - state.worked_usec) / 1e6

    def _boot_sec(self) -> float:
        return self._books.clock.monotonic() + self._books.clock.suspended_sec()

    def _held(self, end: LeaseEnded) -> None:
        name = end.lease.consumer
        self._wanted.discard(name)
        if name in self._books.ledger.consumers:
            self._ended_at[name] = self._boot_sec()
            hold_sec = end.stood_sec(self._books.clock.realtime_usec())
            self._learn(name, times=self._books.state(name).times.observe_hold(hold_sec))

    def _loaded(self, load: LoadFinished) -> None:
        self._unloaded_at.pop(load.consumer, None)
        start = Start.COLD if load.started else Start.PARKED
        times = self._books.state(load.consumer).times.observe_load(load.duration_usec / 1e6, start)
        self._learn(load.consumer, times=times)

    def _evicted(self, report: EvictionReport) -> None:
        method = EvictionMethod(report.method)
        if method is EvictionMethod.HTTP:
            self._unloaded_at[report.consumer] = self._books.clock.monotonic()
        times = self._books.state(report.consumer).times.observe_unload(method, report.duration_usec / 1e6)
        self._learn(report.consumer, times=times)

    # -- keeping -------------------------------------------------------------------------------------------------

    def _learn(self, name: str, **changes: Any) -> None:
        self._books.ledger.update(name, **changes)
        self._changed.add(name)

    def keep(self) -> None:
        """Have what was learned since the last time kept."""
        for name in self._changed:
            if name in self._books.ledger.consumers:
                self._archive.keep_learned(name, _record(self._books.state(name)))
        self._changed.clear()


def _empty_mib(spec: ConsumerSpec) -> int:
    """What a process that has loaded nothing holds: where the footprint is left to us, that must not become it."""
    return CONTEXT_MIB if spec.vram_auto else SLACK_MIB


def _may_yet_take_more(state: ConsumerState, peak_mib: int) -> bool:
    """Whether less than what is spoken for may be no more than a pause in its load.

    One that loads with its first request, or whose unit is active from its first moment on, never says when it is
    done. Until its lease has ended, or its stay, all of its footprint is kept for it. Of one whose footprint nobody
    knows that would be the whole device: what rests there is believed.
    """
    never_says = state.spec.lazy or (state.spec.load is None and state.spec.health is None)
    is_left_to_us = state.spec.vram_auto and state.footprint_known
    is_kept = is_left_to_us and state.claimed and peak_mib < state.footprint_mib
    return is_kept and never_says and not state.says_loaded


def _record(state: ConsumerState) -> dict[str, Any]:
    return {"is": identity(state.spec), "memory": state.memory.to_record(), "times": state.times.to_record()}


def measured_peaks(records: Mapping[str, Mapping[str, Any]]) -> Callable[[ConsumerSpec], int | None]:
    """A function that says the most MiB a consumer was measured to hold, from what was kept; None where it was not."""

    def peak_mib(spec: ConsumerSpec) -> int | None:
        record = records.get(spec.name, {})
        try:
            return Footprint.from_record(record["memory"]).peak_mib if record["is"] == identity(spec) else None
        except (KeyError, ValueError, TypeError, AttributeError):
            return None

    return peak_mib
