"""What is seen corrects what is believed.

Three witnesses speak of a consumer: its unit, its health route, NVML. Each is kept with the moment at which it was
asked, and what was asked before our own last move says nothing any more. While a job loads or evicts a consumer its
residency is the job's business, and witnesses are only heard, not believed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from gpumand.arbiter.state import ArbiterState
from gpumand.domain.consumer import ConsumerSpec, Health, Residency, UnitActivity, UnitState
from gpumand.domain.device import Devices
from gpumand.domain.eviction_check import SLACK_MIB
from gpumand.domain.residency import holds_model, residency_from_facts
from gpumand.domain.view import ConsumerState

log = logging.getLogger(__name__)


CALM_SEC = 15.0
"""A unit that has not been starting for so long has come to rest; one that crashes and comes back again has not."""

GROWN_SEC = 5.0
"""Memory that holds a model's worth and has not grown for so long is all there is to come."""


@dataclass(slots=True)
class _Witnesses:
    spec: ConsumerSpec
    unit: UnitState | None = None
    unit_heard_at: float = float("-inf")
    health: Health | None = None
    health_asked_at: float = float("-inf")
    held_mib: int = 0
    grew_at: float = float("inf")


class Reconciler:
    """Keeps the witnesses' last words and draws the conclusions."""

    def __init__(self, arbiter_state: ArbiterState) -> None:
        self._books = arbiter_state
        self._heard: dict[str, _Witnesses] = {}
        self._void_before = float("-inf")

    def note_unit(self, state: UnitState) -> None:
        """A unit changed, or was asked. More than one consumer never shares one."""
        for consumer in list(self._books.ledger.consumers.values()):
            if consumer.spec.unit == state.unit:
                heard = self._witnesses(consumer)
                former, heard.unit, heard.unit_heard_at = heard.unit, state, self._books.clock.monotonic()
                has_begun = former is not None and _has_begun_anew(former, state)
                if has_begun:
                    self._books.ledger.update(consumer.name, shown=False)
                self.conclude(consumer.name)
                if has_begun:
                    self._account_for_start(consumer.name)

    def _account_for_start(self, name: str) -> None:
        """A unit that has just begun, whoever started it, takes its memory in its own time: that is spoken for now.

        systemd calls a plain service active from its first moment on, long before its model is in VRAM. One that is
        just being evicted, and comes back, is no exception.
        """
        state = self._books.state(name)
        if state.residency in (Residency.RESIDENT, Residency.PARKED, Residency.UNLOADING) and not state.shown:
            devices = state.devices or self._likely_devices(state)
            self._books.ledger.claim(name, devices, self._books.clock.monotonic())

    def note_health(self, name: str, health: Health, asked_at: float) -> None:
        """A consumer was probed.

        Args:
            name: which one; one that is no longer configured is ignored.
            health: what it said.
            asked_at: monotonic seconds at which the probe began.
        """
        if name not in self._books.ledger.consumers or asked_at < self._void_before:
            return
        state = self._books.state(name)
        heard = self._witnesses(state)
        if asked_at < heard.health_asked_at:
            return  # it took longer to answer this than what it was asked later
        heard.health, heard.health_asked_at = health, asked_at
        if health.last_used_usec is not None and health.last_used_usec != state.probed_usec:
            self._books.ledger.update(name, probed_usec=health.last_used_usec)
        if asked_at > state.changed_at and state.says_loaded != (health.loaded is True):
            self._books.ledger.update(name, says_loaded=health.loaded is True)
        self.conclude(name)

    def runs(self, name: str) -> bool:
        """Whether it is there as far as is known: its unit is active, or it is no unit."""
        state = self._books.state(name)
        unit = self._witnesses(state).unit
        return not state.spec.unit or (unit is not None and unit.activity is UnitActivity.ACTIVE)

    def conclude_all(self) -> None:
        """Draw the conclusions for everybody, after a new reading."""
        for name in list(self._books.ledger.consumers):
            self.conclude(name)

    def forget_missing(self) -> None:
        """Forget witnesses of consumers that are no longer configured, or who are asked otherwise now."""
        for name, heard in list(self._heard.items()):
            state = self._books.ledger.consumers.get(name)
            if state is None or _asked(state.spec) != _asked(heard.spec):
                del self._heard[name]

    def void(self) -> None:
        """Forget all witnesses, and what was concluded from them; what is lent or being loaded is so until denied."""
        self._heard.clear()
        self._void_before = self._books.clock.monotonic()
        for state in list(self._books.ledger.consumers.values()):
            is_ours = state.claimed or state.residency is Residency.FAILED or self._is_in_a_job(state)
            if not is_ours:
                self._books.set_residency(state.name, Residency.UNKNOWN, own_move=False)

    def conclude(self, name: str) -> None:
        """Bring one consumer's residency in line with what is seen."""
        state = self._books.state(name)
        if self._is_in_a_job(state):
            return
        self._locate(state)
        self._note_shown(name)
        has_come_back = self._has_come_back(state)
        if not has_come_back:
            self._books.ledger.unclaim(name, self._books.clock.monotonic())
        state = self._books.state(name)
        seen = self._what_is_seen(state)
        if seen is not state.residency:
            self._move_to(state, seen)
        elif has_come_back:
            self._books.ledger.unclaim(name, self._books.clock.monotonic())

    def _has_come_back(self, state: ConsumerState) -> bool:
        """Its unit began anew after we had stopped it, and before its memory was seen free: its room is spoken for."""
        heard = self._witnesses(state)
        unit = heard.unit if heard.unit_heard_at > state.unit_moved_at else None
        return state.residency is Residency.UNLOADED and unit is not None and unit.activity in RUNNING

    def _is_in_a_job(self, state: ConsumerState) -> bool:
        if state.residency is Residency.UNLOADING or (state.residency is Residency.LOADING and not state.unasked):
            return any(
                state.name == job.consumer or state.name in job.evicting for job in self._books.ledger.jobs.values()
            )
        return False

    def _what_is_seen(self, state: ConsumerState) -> Residency:
        heard = self._witnesses(state)
        unit = heard.unit if heard.unit_heard_at > state.unit_moved_at else None
        health = heard.health if heard.health_asked_at > state.changed_at else None
        seen = residency_from_facts(state.spec, unit, health, self._held_mib(state))
        nobody_says = unit is None and (health is None or health.loaded is None)
        may_yet_show = state.claimed or not state.spec.lazy
        if state.spec.unit and nobody_says and may_yet_show and seen in WITHOUT_MODEL:
            # We have started or stopped its unit ourselves and systemd has not been heard since: that NVML shows
            # nothing yet is no news.
            return state.residency
        if seen is Residency.LOADING:
            return self._weigh_loading(state, unit)
        self._note_calm(state)
        unit_is_down = unit is not None and unit.activity in DOWN
        is_gone = unit_is_down or (health is not None and health.gone)
        return self._weigh(state, seen, unit_is_down=unit_is_down, is_gone=is_gone)

    def _weigh(self, state: ConsumerState, seen: Residency, *, unit_is_down: bool, is_gone: bool) -> Residency:
        """Where a fact is weaker than what we know, what we know stays."""
        believed = state.residency
        if seen is Residency.UNKNOWN and believed in KNOWN:
            return believed  # no witness says anything: no reason to forget
        if seen in WITHOUT_MODEL and believed is Residency.FAILED:
            # It failed, and is not loaded: no contradiction. One that sleeps on is parked when it may be tried again:
            # others may need the host RAM and the VRAM that it holds.
            backs_off = self._books.clock.monotonic() < state.retry_at
            return seen if seen is Residency.PARKED and not backs_off else believed
        if seen is Residency.UNLOADED and believed is Residency.PARKED:
            return seen if is_gone or not state.spec.parks else believed  # it has not left VRAM any further
        if seen in WITHOUT_MODEL and believed is Residency.RESIDENT and state.claimed and state.spec.lazy:
            return Residency.UNLOADED if unit_is_down else believed  # its first request has yet to come, or to load it
        return seen

    def _weigh_loading(self, state: ConsumerState, unit: UnitState | None) -> Residency:
        """It looks as if it were loading. Who is taken for loading keeps everybody else from the device, so:

        a resident that does not answer is busy or hung, not loading, and a start that has gone on for longer than a
        load may take, be it one that hangs or one that crashes and begins anew, is none. Both may be evicted.
        """
        if state.residency is Residency.RESIDENT and unit is not None and unit.activity is UnitActivity.ACTIVE:
            return Residency.RESIDENT
        now = self._books.clock.monotonic()
        since = state.loading_since if state.loading_since is not None else now
        if state.loading_since is None:
            self._books.ledger.update(state.name, loading_since=now)
        return Residency.RESIDENT if now - since > state.spec.load_timeout_sec else Residency.LOADING

    def _note_calm(self, state: ConsumerState) -> None:
        """Its start is over, unless it comes back too soon."""
        if state.loading_since is not None and self._books.clock.monotonic() - state.idle_since > CALM_SEC:
            self._books.ledger.update(state.name, loading_since=None)

    def _move_to(self, state: ConsumerState, seen: Residency) -> None:
        name = state.name
        log.info("consumer %s is %s, not %s", name, seen, state.residency)
        self._books.set_residency(name, seen, error=self._error_of(state, seen), own_move=False)
        if seen is Residency.LOADING:
            # Somebody else started it. It takes its room whether we like it or not, so it is accounted for.
            devices = state.devices or self._likely_devices(state)
            self._books.ledger.update(name, unasked=True)
            self._books.ledger.claim(name, devices, self._books.clock.monotonic())
            return
        self._books.ledger.update(name, unasked=False)
        if seen is Residency.RESIDENT:
            self._books.ledger.update(name, failures=0, retry_at=0.0)
            self._note_shown(name)
        self._books.ledger.unclaim(name, self._books.clock.monotonic())

    def _error_of(self, state: ConsumerState, seen: Residency) -> str | None:
        """What to say of it: a unit that failed behind our back says why."""
        unit = self._witnesses(state).unit
        if unit is not None and unit.activity is UnitActivity.FAILED and seen is Residency.UNLOADED:
            return f"{unit.unit} failed ({unit.result})"
        return "" if seen is Residency.RESIDENT else None

    def _likely_devices(self, state: ConsumerState, seen: Devices = ()) -> Devices:
        """Where it is taken to be: where it was seen; where more are needed, those configured, else the most free."""
        samples, wanted = self._books.ledger.devices.values(), state.spec.devices
        by_free = sorted(samples, key=lambda one: -(one.free_mib or 0))
        named = [one for one in by_free if {str(one.index), one.uuid} & set(wanted)]
        order = dict.fromkeys([*seen, *state.devices, *(one.index for one in (*named, *by_free))])
        there = [index for index in order if index in self._books.ledger.devices]
        return tuple(sorted(there[: state.spec.device_count]))

    def _locate(self, state: ConsumerState) -> None:
        """Where its processes are is where it is; a claim made elsewhere stays where it was made."""
        held = {index: sample.held_by(state.name) or 0 for index, sample in self._books.ledger.devices.items()}
        seen = tuple(sorted((index for index in held if held[index]), key=lambda index: -held[index]))
        if not seen or state.claimed:
            return
        devices = self._likely_devices(state, seen)
        if devices != state.devices:
            self._books.ledger.update(state.name, devices=devices)

    def _held_mib(self, state: ConsumerState) -> int | None:
        """MiB it holds on all devices, or where it needs several on the fullest one; None where none of them can tell.

        What stays of one that sleeps stays on each of its devices: together that may look like a model.
        """
        samples = self._books.ledger.devices.values()
        figures = [sample.held_by(state.name) for sample in samples if sample.taken_at >= state.changed_at]
        known = [mib for mib in figures if mib is not None]
        held_mib = max(known, default=0) if state.spec.device_count > 1 else sum(known)
        return held_mib if known and len(known) == len(figures) else (held_mib or None)

    def _note_shown(self, name: str) -> None:
        """Note when live figures contain it: then nothing has to be reserved for it on top of them."""
        state = self._books.state(name)
        if not state.devices or state.residency is not Residency.RESIDENT:
            return
        heard = self._witnesses(state)
        says = heard.health.loaded if heard.health is not None and heard.health_asked_at > state.changed_at else None
        if not state.shown and self._is_all_there(state, says):
            self._books.ledger.update(name, shown=True)
        elif state.shown and says is False and state.spec.lazy and state.claimed:
            self._books.ledger.rebase(name)  # it has unloaded by itself under its lease, and may load again

    def _is_all_there(self, state: ConsumerState, says_loaded: bool | None) -> bool:
        figures = [self._books.device(device).held_by(state.name) for device in state.devices]
        known = [mib for mib in figures if mib is not None]
        if len(known) < len(figures):
            # Nobody can tell its memory from others'. What is not lazy was loaded before it was called resident.
            return says_loaded is True or not state.spec.lazy
        held_mib = min(known)
        heard, now = self._witnesses(state), self._books.clock.monotonic()
        if held_mib > heard.held_mib + SLACK_MIB or held_mib < heard.held_mib:
            heard.held_mib, heard.grew_at = held_mib, now
        is_still = holds_model(state.spec, held_mib) and now - heard.grew_at >= GROWN_SEC
        return held_mib >= state.footprint_mib * 0.9 or is_still

    def _witnesses(self, state: ConsumerState) -> _Witnesses:
        if state.name not in self._heard:
            self._heard[state.name] = _Witnesses(state.spec)
        return self._heard[state.name]


def _has_begun_anew(former: UnitState, now: UnitState) -> bool:
    """A run that we have not seen before; one that went on before our first look has had its time."""
    return now.activity is UnitActivity.ACTIVE and now.invocation_id != former.invocation_id


WITHOUT_MODEL = frozenset({Residency.UNLOADED, Residency.PARKED})
KNOWN = frozenset({Residency.RESIDENT, Residency.UNLOADED, Residency.PARKED, Residency.FAILED})

DOWN = frozenset({UnitActivity.INACTIVE, UnitActivity.FAILED})
RUNNING = frozenset({UnitActivity.ACTIVE, UnitActivity.ACTIVATING})


def _asked(spec: ConsumerSpec) -> tuple[object, ...]:
    """What of a consumer decides whom we ask about it."""
    return spec.unit, spec.url, spec.health
