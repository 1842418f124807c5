"""Makes the recorded residency of each consumer agree with what is observed.

There are three sources of observations: the consumer's unit, its health route and the VRAM readings. Each observation
is stored with the time at which it was requested; one from before gpumand's own last action on the consumer is
outdated and is ignored. While a job loads or evicts a consumer, the job owns its residency: observations are stored
and take effect when the job is over.
"""

from __future__ import annotations

import logging

from gpumand.arbiter.observations import DOWN, Observations, is_starting, sources_of
from gpumand.arbiter.residency_evidence import ResidencyEvidence
from gpumand.arbiter.service_index import ServiceIndex
from gpumand.arbiter.shown_memory import ShownMemory
from gpumand.arbiter.state import ArbiterState
from gpumand.domain import location
from gpumand.domain.consumer import Health, UnitActivity, UnitState
from gpumand.domain.location import likely_devices
from gpumand.domain.residency import ends_failure, infer_residency
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState
from gpumand.domain.wording import describe_devices

log = logging.getLogger(__name__)

WITHOUT_MODEL = frozenset({Residency.UNLOADED, Residency.PARKED})
KNOWN = frozenset({Residency.RESIDENT, Residency.UNLOADED, Residency.PARKED, Residency.FAILED})
RUNNING = frozenset({UnitActivity.ACTIVE, UnitActivity.ACTIVATING})
UNUSED = frozenset({"", *DOWN})
"""Activities of a unit that holds no memory; "" = none was reported so far."""

AT_REST_SEC = 15.0
"""Seconds without a start after which a start has ended: ``load_timeout_sec`` applies to a crash loop as a whole."""


class Reconciler:
    """Stores the latest observations of each consumer and derives its residency from them.

    Attributes:
        observation_count: number of observations so far, without readings of VRAM.
        services: the consumers by the unit and container they run in.
    """

    def __init__(self, state: ArbiterState) -> None:
        self._state = state
        self._observations: dict[str, Observations] = {}
        self._valid_from = float("-inf")
        self._evidence = ResidencyEvidence(state)
        self._shown = ShownMemory(state, self._observations_of)
        self.observation_count = 0
        self.services = ServiceIndex(state)

    def record_unit(self, unit: UnitState) -> bool:
        """Store the state of a unit or container, from a signal or a query, for each consumer that runs in it.

        Returns whether a reading may show something new: not if it is inactive, and was so as far as is known.
        """
        self.observation_count += 1
        consumers = self.services.consumers_in(unit.unit)
        is_news = unit.activity not in DOWN or any(one.unit_activity not in UNUSED for one in consumers)
        for consumer in consumers:
            observations = self._observations_of(consumer)
            has_new_run = observations.record(unit, self._state.clock.monotonic())
            if consumer.unit_activity != unit.activity:
                self._state.ledger.update(consumer.name, unit_activity=str(unit.activity))
            if has_new_run:
                observations.new_run_at = observations.unit_observed_at
                self._evidence.forget_run(consumer.name)
                self._state.ledger.update(consumer.name, footprint_seen=False, in_container=False)
            self.reconcile(consumer.name)
            if has_new_run:
                self._reserve_for_start(consumer.name)
        return is_news or not consumers

    def _reserve_for_start(self, name: str) -> None:
        """Reserve the footprint of a consumer whose unit has just started, no matter which process started it.

        systemd reports a plain service as active at once, long before its model is in VRAM. Without the reservation
        that memory would be granted a second time. The same applies to a unit that restarts while it is evicted.
        """
        consumer = self._state.consumer(name)
        if (
            consumer.residency in (Residency.RESIDENT, Residency.PARKED, Residency.UNLOADING)
            and not consumer.footprint_seen
        ):
            devices = consumer.devices or likely_devices(self._state.ledger.devices, consumer)
            self._state.ledger.claim(
                consumer.name, devices, self._state.clock.monotonic(), for_start=not consumer.spec.lazy
            )

    def record_health(self, name: str, health: Health, requested_at: float) -> None:
        """Store the result of a health check.

        Args:
            name: the consumer; ignored when it is not configured any more.
            health: its answer.
            requested_at: when the health check began, in monotonic seconds.
        """
        if name not in self._state.ledger.consumers or requested_at < self._valid_from:
            return
        consumer = self._state.consumer(name)
        observations = self._observations_of(consumer)
        if requested_at < observations.health_requested_at:
            return  # the answer to a later request has arrived already
        observations.health, observations.health_requested_at = health, requested_at
        self.observation_count += 1
        if health.last_used_usec is not None and health.last_used_usec != consumer.reported_used_usec:
            self._state.ledger.update(name, reported_used_usec=health.last_used_usec)
        has_started = observations.has_started(self._state.clock.monotonic())
        self._evidence.note_answer(consumer, health, requested_at, has_started=has_started)
        if requested_at > consumer.changed_at and consumer.reports_loaded != (health.loaded is True):
            self._state.ledger.update(name, reports_loaded=health.loaded is True)
        self.reconcile(name)

    def is_running(self, name: str) -> bool:
        """Whether the consumer's unit is active, as far as observed; True for a consumer without a unit."""
        consumer = self._state.consumer(name)
        unit = self._observations_of(consumer).unit
        return not consumer.spec.service or (unit is not None and unit.activity is UnitActivity.ACTIVE)

    def outdated_services(self) -> set[str]:
        """Units and containers whose last known state is from before gpumand's own last action on them.

        systemd announces changes only: a unit whose load has ended since then stays as it is. Without its state, a
        reading or a health check that contradicts its residency proves nothing.
        """
        with_unit = (one for one in self._state.ledger.consumers.values() if one.spec.service)
        return {
            one.spec.service
            for one in with_unit
            if not self._is_in_a_job(one) and self._observations_of(one).unit_observed_at <= one.unit_changed_at
        }

    def reconcile_all(self) -> None:
        """Reconcile all consumers, after a new reading or the end of a job."""
        for name in list(self._state.ledger.consumers):
            self.reconcile(name)

    def forget_obsolete_observations(self) -> None:
        """After a reload: drop observations of consumers that are gone or whose unit or health check has changed."""
        self.observation_count += 1
        for name, observations in list(self._observations.items()):
            consumer = self._state.ledger.consumers.get(name)
            if consumer is None or sources_of(consumer.spec) != sources_of(observations.spec):
                del self._observations[name]

    def forget_observations(self) -> None:
        """Drop all observations, and every residency that rests on them only.

        Consumers with a lease, in a job or in a backoff after a failed load keep their residency until an observation
        contradicts it.
        """
        self._observations.clear()
        self.observation_count += 1
        self._valid_from = self._state.clock.monotonic()
        for consumer in list(self._state.ledger.consumers.values()):
            is_in_use = (
                consumer.spec.reservation is not None
                or consumer.claimed
                or consumer.residency is Residency.FAILED
                or self._is_in_a_job(consumer)
            )
            if not is_in_use:
                self._state.set_residency(consumer.name, Residency.UNKNOWN, own_move=False)

    def reconcile(self, name: str) -> None:
        """Make one consumer's residency agree with its observations."""
        consumer = self._state.consumer(name)
        if consumer.spec.reservation is not None or self._is_in_a_job(consumer):
            return  # a reservation has no server to observe
        self._update_devices(consumer)
        self._shown.update(name)
        has_restarted = self._has_restarted_after_stop(consumer)
        if not has_restarted:
            self._state.ledger.release_claim(name, self._state.clock.monotonic())
        consumer = self._state.consumer(name)
        observed = self._observed_residency(consumer)
        if observed is not consumer.residency:
            self._change_residency(consumer, observed)
        elif has_restarted:
            self._state.ledger.release_claim(name, self._state.clock.monotonic())

    def _has_restarted_after_stop(self, consumer: ConsumerState) -> bool:
        """Whether its unit started again after gpumand stopped it. Then its footprint must stay reserved."""
        observations = self._observations_of(consumer)
        unit = observations.unit if observations.unit_observed_at > consumer.unit_changed_at else None
        return consumer.residency is Residency.UNLOADED and unit is not None and unit.activity in RUNNING

    def _is_in_a_job(self, consumer: ConsumerState) -> bool:
        if consumer.residency is Residency.UNLOADING or (
            consumer.residency is Residency.LOADING and not consumer.external_load
        ):
            return any(
                consumer.name == job.consumer or consumer.name in job.evicting
                for job in self._state.ledger.jobs.values()
            )
        return False

    def _observed_residency(self, consumer: ConsumerState) -> Residency:
        observations = self._observations_of(consumer)
        unit = observations.unit if observations.unit_observed_at > consumer.unit_changed_at else None
        health = observations.health if observations.health_requested_at > consumer.changed_at else None
        held_mib = self._held_mib(consumer)
        observed = infer_residency(consumer.spec, unit, health, held_mib)
        unit_is_down = unit is not None and unit.activity in DOWN
        if unit_is_down and self._evidence.is_releasing_memory(consumer, observations.unit_observed_at):
            return Residency.UNLOADING
        has_started = observations.new_run_at > consumer.changed_at
        is_loading_again = has_started or is_starting(unit) or (health is not None and health.loading)
        if observed is Residency.LOADING and consumer.residency is Residency.FAILED and not is_loading_again:
            return consumer.residency  # it has failed to load, and nothing has started it again since then
        if consumer.start_overdue and observed is not Residency.LOADING:
            self._state.ledger.update(consumer.name, start_overdue=False)
        has_no_report = unit is None and (health is None or health.loaded is None)
        may_still_load = consumer.claimed or not consumer.spec.lazy
        if consumer.spec.service and has_no_report and may_still_load and observed in WITHOUT_MODEL:
            # gpumand has started or stopped its unit, and systemd has reported no state since then. A reading that
            # shows no memory proves nothing: the model may not have been loaded yet.
            return consumer.residency
        if observed is Residency.LOADING:
            return self._resolve_loading(consumer, unit, held_mib)
        observed = self._evidence.check(consumer, observed, observations.health, held_mib)
        self._end_start_phase(consumer)
        process_is_gone = unit_is_down or (health is not None and health.refused)
        if consumer.residency is Residency.FAILED and observed is Residency.RESIDENT:
            was_asked = consumer.spec.health is None or health is not None
            is_loaded = was_asked and ends_failure(consumer.spec, health, held_mib, consumer.footprint_mib)
            return observed if is_loaded or has_started else consumer.residency
        return self._prefer_known_residency(
            consumer, observed, unit_is_down=unit_is_down, process_is_gone=process_is_gone
        )

    def _prefer_known_residency(
        self, consumer: ConsumerState, observed: Residency, *, unit_is_down: bool, process_is_gone: bool
    ) -> Residency:
        """Keep the current residency where the observation is weaker evidence than what led to it."""
        current = consumer.residency
        if observed is Residency.UNKNOWN and current in KNOWN:
            return current  # no source reports anything, which is no reason to discard it
        if observed in WITHOUT_MODEL and current is Residency.FAILED:
            # "Failed" and "not loaded" do not contradict each other. But one that is still parked becomes PARKED when
            # its backoff is over, so that it can be evicted: others may need the host RAM and VRAM that it holds.
            backs_off = self._state.clock.monotonic() < consumer.retry_at
            return observed if observed is Residency.PARKED and not backs_off else current
        if observed is Residency.UNLOADED and current is Residency.PARKED:
            # A parked consumer holds no model in VRAM either, so only the end of its process distinguishes the two.
            return observed if process_is_gone or not consumer.spec.parks else current
        if observed in WITHOUT_MODEL and current is Residency.RESIDENT and consumer.claimed and consumer.spec.lazy:
            # A lazy consumer loads with its first request, which the lease holder may not have sent yet.
            return Residency.UNLOADED if unit_is_down or consumer.server_is_gone else current
        if observed in WITHOUT_MODEL and current is Residency.RESIDENT and consumer.claimed and consumer.sleeping:
            return current  # a sleeping server wakes with the next request of the lease holder
        return observed

    def _resolve_loading(self, consumer: ConsumerState, unit: UnitState | None, held_mib: int | None) -> Residency:
        """Decide between LOADING and RESIDENT for a consumer that appears to be loading.

        A loading consumer blocks its device for all others, so two cases must not count as loading: a resident
        consumer that does not answer (it is busy or hangs), and a start that takes longer than ``load_timeout_sec``
        (it hangs, or crashes and restarts again and again). Both become RESIDENT and can be evicted.
        """
        is_active = unit is not None and unit.activity is UnitActivity.ACTIVE
        health = self._observations_of(consumer).health
        if consumer.residency is Residency.RESIDENT and consumer.claimed and health is not None and health.loading:
            return Residency.RESIDENT  # the request of its client loads or wakes the model, as the lease allows
        if is_active and consumer.residency is Residency.RESIDENT:
            return self._evidence.check(consumer, Residency.RESIDENT, health, held_mib)
        if is_active and consumer.residency is Residency.UNLOADED and consumer.has_served:
            return Residency.UNLOADED  # its server has ended in this run of its unit, which does not start it again
        if is_active and health is None and consumer.spec.health is not None:
            return Residency.LOADING  # until its server has been asked; when it began depends on the answer
        now = self._state.clock.monotonic()
        if (since := consumer.loading_since) is None:
            since = self._observations_of(consumer).loading_since(now)
            self._state.ledger.update(consumer.name, loading_since=since)
        if now - since <= consumer.spec.load_timeout_sec:
            return Residency.LOADING
        self._state.ledger.update(consumer.name, start_overdue=True)
        return Residency.RESIDENT

    def _end_start_phase(self, consumer: ConsumerState) -> None:
        """Note the end of a start; not within AT_REST_SEC of the last change, since the unit may crash and restart."""
        if consumer.loading_since is not None and self._state.clock.monotonic() - consumer.idle_since > AT_REST_SEC:
            self._state.ledger.update(consumer.name, loading_since=None)

    def _change_residency(self, consumer: ConsumerState, observed: Residency) -> None:
        name = consumer.name
        log.info("consumer %s: %s → %s, as observed", name, consumer.residency, observed)
        self._state.set_residency(name, observed, error=self._error_for(consumer, observed), own_move=False)
        if observed is Residency.LOADING:
            # Another process started it. It will take its memory in any case, so that memory is reserved.
            devices = consumer.devices or likely_devices(self._state.ledger.devices, consumer)
            self._state.ledger.update(name, external_load=True)
            self._state.ledger.claim(name, devices, self._state.clock.monotonic())
            return
        self._state.ledger.update(name, external_load=False)
        if observed is Residency.RESIDENT:
            self._state.ledger.update(name, failures=0, retry_at=0.0)
            self._shown.update(name)
        self._state.ledger.release_claim(name, self._state.clock.monotonic())

    def _error_for(self, consumer: ConsumerState, observed: Residency) -> str | None:
        """The error to show with a residency; None = leave it unchanged. A unit that failed on its own says why."""
        unit = self._observations_of(consumer).unit
        if unit is not None and unit.activity is UnitActivity.FAILED and observed is Residency.UNLOADED:
            return f"{unit.unit} failed ({unit.result})"
        is_active = unit is not None and unit.activity is UnitActivity.ACTIVE
        if observed in (Residency.UNLOADED, Residency.UNKNOWN) and (
            consumer.residency is Residency.RESIDENT or (is_active and consumer.server_is_gone)
        ):
            return self._evidence.contradiction(consumer)
        return "" if observed is Residency.RESIDENT else None

    def _update_devices(self, consumer: ConsumerState) -> None:
        """Set a consumer's devices to those where its processes hold memory.

        A reservation stays on the devices for which it was made, or its memory would be counted on the wrong ones;
        except where the whole model has been loaded on others.
        """
        self._report_misplacement(consumer)
        samples = self._state.ledger.devices
        if consumer.claimed:
            place = location.actual_place(samples, consumer) if consumer.residency is Residency.RESIDENT else ()
            if place:
                log.warning(
                    "consumer %s: it was placed on %s, but its model is on %s",
                    consumer.name,
                    describe_devices(consumer.devices),
                    describe_devices(place),
                )
                self._state.ledger.move(consumer.name, place)
            return
        observed = location.observed_devices(samples, consumer.name)
        devices = likely_devices(samples, consumer, observed) if observed else consumer.devices
        if devices != consumer.devices:
            self._state.ledger.update(consumer.name, devices=devices)

    def _report_misplacement(self, consumer: ConsumerState) -> None:
        """Log once that a consumer is on a device that its configuration does not name."""
        finding = location.misplacement(self._state.ledger.devices, consumer)
        observations = self._observations_of(consumer)
        if bool(finding) != observations.is_misplaced:
            observations.is_misplaced = bool(finding)
            if finding:
                log.warning("consumer %s: %s", consumer.name, finding)

    def _held_mib(self, consumer: ConsumerState) -> int | None:
        """MiB that a consumer holds; None where no device can attribute its memory.

        For a consumer on one device this is the sum over all devices; for one on several devices, the largest value:
        a parked consumer leaves a remainder on each of them, and their sum could look like a loaded model.
        """
        samples = self._state.ledger.devices.values()
        readings = [sample.held_by(consumer.name) for sample in samples if sample.taken_at >= consumer.changed_at]
        known = [mib for mib in readings if mib is not None]
        held_mib = max(known, default=0) if consumer.spec.device_count > 1 else sum(known)
        return held_mib if known and len(known) == len(readings) else (held_mib or None)

    def _observations_of(self, consumer: ConsumerState) -> Observations:
        if consumer.name not in self._observations:
            self._observations[consumer.name] = Observations(consumer.spec)
        return self._observations[consumer.name]
