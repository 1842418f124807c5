"""Learns from normal operation how much memory consumers hold and how long their loads, unloads and uses take.

Nothing is measured for this purpose alone: it uses the readings that decisions need anyway, and the events of leases,
loads and evictions. The results are stored in the ledger, where decisions use them, and survive restarts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.use_times import UseTimes
from gpumand.domain.assumed_times import Start
from gpumand.domain.consumer import ConsumerSpec, EvictionMethod
from gpumand.domain.cuda_context import CONTEXT_MIB
from gpumand.domain.events import Event, EvictionOccurred, EvictionReport, LoadFinished
from gpumand.domain.eviction_check import SLACK_MIB
from gpumand.domain.footprint import AT_REST_SEC, Footprint
from gpumand.domain.identity import identity
from gpumand.domain.learning import LearnedTimes
from gpumand.domain.load_evidence import Observed, load_was_seen
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState
from gpumand.domain.wording import FOOTPRINT_UNKNOWN
from gpumand.ports import Archive

log = logging.getLogger(__name__)

RESIDUAL_AFTER_SEC = 2.0
"""Seconds after an unload from which the remaining memory counts as residual. Caches and contexts are freed a little
later than the weights."""

PEAK_STEP_MIB = 32
"""A peak that has grown by less than this since it was last stored is not stored again."""


@dataclass(slots=True)
class _Stay:
    """One continuous stay of a consumer in VRAM, from load to unload.

    Attributes:
        before: the footprint as known before the stay. Each new result replaces the previous one of the same stay, so
            it is always added to this value.
        held_mib: memory held, as of the last change by more than the tolerance.
        since: when that change was observed, in monotonic seconds.
        steady_mib: memory held at rest; None while it has not been at rest.
        peak_mib: the most memory held.
        base_mib: the least memory held at rest, also before the stay; None when there was none.
        worked: the consumer reported work during the stay.
        reported: the consumer reported during the stay that its model is loaded.
        saved_mib: steady and peak memory that were last stored.
    """

    before: Footprint
    held_mib: int
    since: float
    steady_mib: int | None = None
    peak_mib: int = 0
    base_mib: int | None = None
    worked: bool = False
    reported: bool = False
    saved_mib: tuple[int, int] = (0, 0)


LEARNED_EVENTS = (LoadFinished, EvictionOccurred)
"""The types of events for ``record_event``."""


class LearningRecorder:
    """Records measurements. ``observe_reading`` is called after every reading, the others with each event.

    Attributes:
        uses: learns from requests and ends of leases.
    """

    def __init__(self, state: ArbiterState, archive: Archive) -> None:
        self._state = state
        self._archive = archive
        self._stays: dict[str, _Stay] = {}
        self._idle_mib: dict[str, int] = {}
        self._unloaded_at: dict[str, float] = {}
        self._warned: dict[str, tuple[int, int]] = {}
        self._changed: set[str] = set()
        self.uses = UseTimes(state, lambda name, times: self._learn(name, times=times))

    def record_event(self, event: Event) -> None:
        """Learn from an event: a load, an eviction."""
        if isinstance(event, LoadFinished) and not event.error:
            self._record_load(event)
        elif isinstance(event, EvictionOccurred):
            self._record_unload(event.report)

    async def restore(self) -> None:
        """Restore what earlier daemon processes have learned. Unreadable records are skipped, never an error."""
        for name, record in (await self._archive.read_learned()).items():
            consumer = self._state.ledger.consumers.get(name)
            if consumer is not None:
                self._restore(consumer, record)

    async def restore_if_unknown(self, name: str) -> None:
        """Try again to restore the measurements of a consumer with unknown footprint.

        The disk may not have answered in time when the daemon started.
        """
        if self.is_unknown(name):
            record = (await self._archive.read_learned()).get(name)
            # It may have been measured during the read; a restored value must not replace that.
            if record is not None and self.is_unknown(name):
                self._restore(self._state.consumer(name), record)

    def is_unknown(self, name: str) -> bool:
        """Whether the footprint of a consumer is not known yet."""
        consumer = self._state.ledger.consumers.get(name)
        return consumer is not None and not consumer.footprint_known

    def warn_of_unknown_footprints(self) -> None:
        """Log a warning for each consumer whose VRAM requirement is unknown."""
        for name in filter(self.is_unknown, self._state.ledger.consumers):
            log.warning("consumer %s cannot be leased: %s", name, FOOTPRINT_UNKNOWN)

    def _restore(self, consumer: ConsumerState, record: Mapping[str, Any]) -> None:
        if record.get("is") != identity(consumer.spec):
            log.info("consumer %s: its configuration has changed, so its memory is measured again", consumer.name)
            return
        try:
            memory, times = (
                Footprint.from_record(record.get("memory", {})),
                LearnedTimes.from_record(record.get("times")),
            )
        except (ValueError, TypeError, AttributeError) as error:
            log.warning(
                "consumer %s: stored measurements are unreadable and are measured again: %s", consumer.name, error
            )
            return
        if record.get("declared_mib") != _declared_mib(consumer.spec):
            memory = _corrected(memory, consumer.spec)
        self._state.ledger.update(consumer.name, memory=memory, times=times)

    def forget_changed(self, former: Mapping[str, ConsumerSpec]) -> None:
        """After a reload: discard the measurements that the new configuration contradicts.

        All of them where the name now means another program or model; those of memory where the declared footprint was
        corrected and they do not agree with it.
        """
        self.uses.learn_noted()
        for name, consumer in list(self._state.ledger.consumers.items()):
            if name not in former:
                continue
            if identity(former[name]) != identity(consumer.spec):
                self._stays.pop(name, None)
                self._learn(name, memory=Footprint(), times=LearnedTimes())
            elif _declared_mib(former[name]) != _declared_mib(consumer.spec):
                self._stays.pop(name, None)
                self._learn(name, memory=_corrected(consumer.memory, consumer.spec))

    # -- memory --------------------------------------------------------------------------------------------------

    def observe_reading(self) -> None:
        """Learn footprints from a new reading."""
        for consumer in list(self._state.ledger.consumers.values()):
            held_mib = self._held_mib(consumer.name)
            if held_mib is None:
                continue
            if consumer.partial is not None and consumer.memory.peak_mib is not None:
                self._stays.pop(consumer.name, None)  # a part of a model says nothing about what all of it needs
            elif consumer.residency is Residency.RESIDENT and held_mib > consumer.spec.residual_mib + _empty_mib(
                consumer.spec
            ):
                self._observe_stay(consumer, held_mib)
            elif consumer.residency is not Residency.RESIDENT:
                self._end_stay(consumer)
                if consumer.residency in (Residency.UNLOADED, Residency.PARKED):
                    self._idle_mib[consumer.name] = _lower_base(self._idle_mib.get(consumer.name), held_mib)
                self._observe_residual(consumer, held_mib)

    def _held_mib(self, name: str) -> int | None:
        """MiB held on all devices together, or on the fullest one if it needs several; None if any value is unknown."""
        readings = [sample.held_by(name) for sample in self._state.ledger.devices.values()]
        known = [mib for mib in readings if mib is not None]
        if not known or len(known) < len(readings):
            return None
        return max(known) if self._state.consumer(name).spec.device_count > 1 else sum(known)

    def _observe_stay(self, consumer: ConsumerState, held_mib: int) -> None:
        now = self._state.clock.monotonic()
        base_mib = self._idle_mib.pop(consumer.name, None)
        stay = self._stays.setdefault(consumer.name, _Stay(consumer.memory, held_mib, now, base_mib=base_mib))
        stay.peak_mib = max(stay.peak_mib, held_mib)
        stay.worked = stay.worked or bool(consumer.jobs)
        stay.reported = stay.reported or consumer.reports_loaded
        if abs(held_mib - stay.held_mib) > SLACK_MIB:
            stay.held_mib, stay.since = held_mib, now
        elif now - stay.since >= AT_REST_SEC:
            stay.steady_mib = held_mib
            stay.base_mib = _lower_base(stay.base_mib, held_mib)
        if not _may_still_grow(consumer, stay.peak_mib):
            self._learn_from_stay(consumer, stay)

    def _end_stay(self, consumer: ConsumerState) -> None:
        stay = self._stays.pop(consumer.name, None)
        if stay is not None:
            self._learn_from_stay(consumer, stay)

    def _learn_from_stay(self, consumer: ConsumerState, stay: _Stay) -> None:
        """Store the results of a stay if they show a loaded model and differ enough from those stored before."""
        seen = Observed(stay.base_mib, stay.peak_mib, stay.worked, stay.reported)
        if stay.steady_mib is None or not load_was_seen(consumer.spec, consumer.footprint_mib, seen):
            return
        if self._differs_from_saved(stay, stay.steady_mib):
            stay.saved_mib = (stay.steady_mib, stay.peak_mib)
            self._learn(consumer.name, memory=stay.before.with_stay(stay.steady_mib, stay.peak_mib))
            self._warn_of_wrong_footprint(consumer.name)

    @staticmethod
    def _differs_from_saved(stay: _Stay, steady_mib: int) -> bool:
        noted_steady_mib, noted_peak_mib = stay.saved_mib
        return abs(steady_mib - noted_steady_mib) > SLACK_MIB or stay.peak_mib - noted_peak_mib >= PEAK_STEP_MIB

    def _observe_residual(self, consumer: ConsumerState, held_mib: int) -> None:
        unloaded_at = self._unloaded_at.get(consumer.name)
        if unloaded_at is None or consumer.residency not in (Residency.UNLOADED, Residency.PARKED):
            return
        if self._state.sampled_at - unloaded_at >= RESIDUAL_AFTER_SEC:
            del self._unloaded_at[consumer.name]
            if not consumer.claimed:
                self._learn(consumer.name, memory=consumer.memory.with_residual(held_mib))

    def _warn_of_wrong_footprint(self, name: str) -> None:
        """Log a warning for a wrong declared footprint; again only if it or the measured peak has changed."""
        consumer = self._state.consumer(name)
        declared_mib, peak_mib = consumer.spec.vram_resident_mib, consumer.memory.peak_mib
        if consumer.spec.vram_auto or peak_mib is None or not consumer.memory.contradicts(declared_mib):
            return
        warned_for_mib, warned_of_mib = self._warned.get(name, (0, 0))
        if warned_for_mib == declared_mib and abs(peak_mib - warned_of_mib) <= warned_of_mib // 10:
            return
        self._warned[name] = (declared_mib, peak_mib)
        log.warning(
            "consumer %s: vram_resident_mib is %d, but it held up to %d MiB; %s. Set it to the peak use under load.",
            name,
            declared_mib,
            peak_mib,
            "others may run out of memory" if peak_mib > declared_mib else "memory is reserved that it does not need",
        )

    # -- time ----------------------------------------------------------------------------------------------------

    def _record_load(self, load: LoadFinished) -> None:
        self._unloaded_at.pop(load.consumer, None)
        start = Start.COLD if load.started else Start.PARKED
        times = self._state.consumer(load.consumer).times.observe_load(load.duration_usec / 1e6, start)
        self._learn(load.consumer, times=times)

    def _record_unload(self, report: EvictionReport) -> None:
        method = EvictionMethod(report.method)
        if method is EvictionMethod.HTTP:
            self._unloaded_at[report.consumer] = self._state.clock.monotonic()
        times = self._state.consumer(report.consumer).times.observe_unload(method, report.duration_usec / 1e6)
        self._learn(report.consumer, times=times)

    # -- keeping -------------------------------------------------------------------------------------------------

    def _learn(self, name: str, **changes: Any) -> None:
        self._state.ledger.update(name, **changes)
        self._changed.add(name)

    def save(self) -> None:
        """Hand everything learned since the last call to the archive."""
        self.uses.learn_noted()
        for name in self._changed:
            if name in self._state.ledger.consumers:
                self._archive.save_learned(name, _record(self._state.consumer(name)))
        self._changed.clear()


def _empty_mib(spec: ConsumerSpec) -> int:
    """MiB that a process without a loaded model may hold.

    With an automatic footprint, the CUDA context alone must not be learned as the footprint.
    """
    return CONTEXT_MIB if spec.vram_auto else SLACK_MIB


def _lower_base(base_mib: int | None, held_mib: int) -> int:
    """The least memory at rest; an earlier 0 does not count once the process holds a CUDA context."""
    return min(base_mib, held_mib) if base_mib and held_mib else max(base_mib or 0, held_mib)


def _may_still_grow(consumer: ConsumerState, peak_mib: int) -> bool:
    """Whether steady memory below the reserved footprint may just be a pause during a load.

    A consumer that loads with its first request, or that has neither a load route nor a health check, never reports
    the end of its load. Its whole footprint stays reserved until its lease or its stay ends. That does not apply to a
    consumer with unknown footprint, which would reserve the whole device: there the steady memory is used.
    """
    reports_no_end = consumer.spec.lazy or (consumer.spec.load is None and consumer.spec.health is None)
    is_automatic = consumer.spec.vram_auto and consumer.footprint_known
    keeps_reservation = is_automatic and consumer.claimed and peak_mib < consumer.footprint_mib
    return keeps_reservation and reports_no_end and not consumer.reports_loaded


def _record(consumer: ConsumerState) -> dict[str, Any]:
    return {
        "is": identity(consumer.spec),
        "memory": consumer.memory.to_record(),
        "times": consumer.times.to_record(),
        "declared_mib": _declared_mib(consumer.spec),
    }


def _declared_mib(spec: ConsumerSpec) -> int | None:
    """The configured footprint in MiB; None when gpumand measures it."""
    return None if spec.vram_auto else spec.vram_resident_mib


def _corrected(memory: Footprint, spec: ConsumerSpec) -> Footprint:
    """The measurements that agree with a footprint that was declared after them."""
    return memory if spec.vram_auto else memory.agreeing_with(spec.vram_resident_mib)


def measured_peaks(records: Mapping[str, Mapping[str, Any]]) -> Callable[[ConsumerSpec], int | None]:
    """A function that returns the measured peak of a consumer in MiB; None where there is no valid record.

    Args:
        records: what the archive holds, by consumer.
    """

    def peak_mib(spec: ConsumerSpec) -> int | None:
        record = records.get(spec.name, {})
        try:
            return Footprint.from_record(record["memory"]).peak_mib if record["is"] == identity(spec) else None
        except (KeyError, ValueError, TypeError, AttributeError):
            return None

    return peak_mib
