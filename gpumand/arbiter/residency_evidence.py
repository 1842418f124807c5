"""Checks the residency that a consumer seems to have against evidence that it may contradict.

A health check can be answered by a server without a model, a unit can be active without its server, and a stopped unit
can leave processes behind. What contradicts a residency makes it doubtful at once, so that the next grant verifies it,
and changes it when the contradiction lasts.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from gpumand.arbiter.partial_loads import note_partial_load
from gpumand.arbiter.state import ArbiterState
from gpumand.domain.consumer import Health
from gpumand.domain.eviction_check import SLACK_MIB
from gpumand.domain.orphans import describe_orphans
from gpumand.domain.residency import holds_model, is_memory_missing
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState

log = logging.getLogger(__name__)

VANISHED_SEC = 1.0
"""A consumer that held a model counts as unloaded when its processes hold none for this many seconds."""

LATE_MEMORY_SEC = 10.0
"""Seconds for which a consumer whose health check succeeds may hold no memory, since readings can be late."""

ORPHANED_SEC = 3.0
"""Processes that hold memory this many seconds after their unit was stopped will not end by themselves."""


@dataclass(slots=True)
class _Evidence:
    """What was observed of one consumer; times are monotonic seconds, None = not observed.

    Attributes:
        held_model_at: when its own processes were last found to hold a model.
        has_held_model: they have held one in any run, so that its memory is theirs and not that of a container.
        missing_since: since when readings contradict that its model is in VRAM.
        down_since: since when its processes hold memory although its unit is stopped.
    """

    held_model_at: float | None = None
    has_held_model: bool = False
    missing_since: float | None = None
    down_since: float | None = None


class ResidencyEvidence:
    """Remembers for each consumer since when its memory, its port or its processes contradict its residency."""

    def __init__(self, state: ArbiterState) -> None:
        self._state = state
        self._evidence: dict[str, _Evidence] = {}

    def forget_run(self, name: str) -> None:
        """The unit of a consumer is in a new run: what contradicted the last one says nothing about it."""
        evidence = self._of(name)
        evidence.held_model_at = evidence.missing_since = evidence.down_since = None
        self._state.ledger.update(
            name,
            refused_probes=0,
            has_served=False,
            unload_pending=False,
            unload_deferred=False,
            direct_work=False,
            start_overdue=False,
        )

    def note_answer(self, consumer: ConsumerState, health: Health, asked_at: float, *, has_started: bool) -> None:
        """Count health checks in a row that found the port closed, and note whether the server answers or sleeps.

        Args:
            consumer: the consumer that was asked.
            health: its answer.
            asked_at: when the health check began, in monotonic seconds.
            has_started: its unit has been active for longer than a load takes. Its server has listened then, although
                a daemon that was started later has not seen it: a closed port is that of a server that has ended.
        """
        if health.reachable and consumer.residency is not Residency.LOADING:
            note_partial_load(self._state, consumer.name, health.partial)
        is_refusal = health.refused and asked_at > consumer.changed_at
        refused_probes = consumer.refused_probes + 1 if is_refusal else 0
        has_served = consumer.has_served or has_started or health.status > 0 or health.reachable
        seen = (refused_probes, has_served, health.sleeping)
        if seen != (consumer.refused_probes, consumer.has_served, consumer.sleeping):
            self._state.ledger.update(
                consumer.name, refused_probes=refused_probes, has_served=has_served, sleeping=health.sleeping
            )

    def check(
        self, consumer: ConsumerState, observed: Residency, health: Health | None, held_mib: int | None
    ) -> Residency:
        """Reduce RESIDENT to what the evidence allows.

        Args:
            consumer: the consumer, with its current residency.
            observed: the residency that its unit, its health check and its memory suggest.
            health: its last health answer; None where there is none.
            held_mib: MiB that its processes hold; None where the readings cannot say.
        """
        consumer = self._note_memory(consumer, observed, held_mib)
        if observed is not Residency.RESIDENT:
            return observed
        if consumer.server_is_gone and consumer.spec.service:
            has_memory = held_mib is not None and holds_model(consumer.spec, held_mib)
            return Residency.UNKNOWN if has_memory else Residency.UNLOADED
        since, now = self._of(consumer.name).missing_since, self._state.clock.monotonic()
        is_over = since is not None and now - max(since, consumer.changed_at) >= self._patience_sec(consumer, health)
        return Residency.UNLOADED if is_over else observed

    def contradiction(self, consumer: ConsumerState) -> str | None:
        """Why a resident consumer does not count as loaded any more, where that is not an ordinary unload."""
        consumer = self._state.consumer(consumer.name)
        if consumer.server_is_gone:
            return f"nothing listens on its port ({consumer.refused_probes} health checks in a row were refused)"
        if consumer.memory_missing:
            return "it seems to be loaded, but its processes hold no model in VRAM"
        return None

    def is_releasing_memory(self, consumer: ConsumerState, stopped_at: float) -> bool:
        """Whether its unit has just been stopped and its processes still hold memory.

        Those that do not release it in time are left behind: from then on they count as foreign processes.
        """
        evidence, now = self._of(consumer.name), self._state.clock.monotonic()
        held = [
            process.used_mib
            for sample in self._state.ledger.devices.values()
            for process in sample.processes
            if process.consumer == consumer.name and sample.taken_at > stopped_at
        ]
        if not any(mib is None or mib > SLACK_MIB for mib in held):
            evidence.down_since = None
            return False
        evidence.down_since = now if evidence.down_since is None else evidence.down_since
        if now - evidence.down_since < ORPHANED_SEC:
            return True
        evidence.down_since = None
        left = self._state.mark_orphans(consumer.name)
        log.warning("consumer %s: %s", consumer.name, describe_orphans(consumer.spec.service, left))
        return False

    def _note_memory(self, consumer: ConsumerState, observed: Residency, held_mib: int | None) -> ConsumerState:
        evidence, now = self._of(consumer.name), self._state.clock.monotonic()
        if held_mib is not None and holds_model(consumer.spec, held_mib):
            evidence.held_model_at, evidence.has_held_model = now, True
        is_missing = (
            observed is Residency.RESIDENT
            and not consumer.sleeping
            and not consumer.in_container
            and is_memory_missing(
                consumer.spec, held_mib, self._state.unnamed_mib(), held_before=evidence.has_held_model
            )
        )
        if not is_missing:
            evidence.missing_since = None
        elif evidence.missing_since is None:
            evidence.missing_since = now
        if consumer.memory_missing == is_missing:
            return consumer
        return self._state.ledger.update(consumer.name, memory_missing=is_missing)

    def _patience_sec(self, consumer: ConsumerState, health: Health | None) -> float:
        """Seconds for which a consumer that seems loaded may hold no memory before it counts as unloaded."""
        if (self._of(consumer.name).held_model_at or 0.0) > consumer.changed_at:
            return VANISHED_SEC
        return LATE_MEMORY_SEC if health is not None and health.reachable else consumer.spec.load_timeout_sec

    def _of(self, name: str) -> _Evidence:
        return self._evidence.setdefault(name, _Evidence())
