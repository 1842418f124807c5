"""Whether the readings of VRAM contain the whole memory of a consumer, so that nothing is reserved on top of them."""

from __future__ import annotations

import logging
from collections.abc import Callable

from gpumand.arbiter.observations import Observations
from gpumand.arbiter.state import ArbiterState
from gpumand.domain import budget, claims
from gpumand.domain.eviction_check import SLACK_MIB
from gpumand.domain.residency import holds_model
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState

log = logging.getLogger(__name__)

GROWTH_ENDED_SEC = 5.0
"""A consumer whose memory is large enough for a model and has not grown for this many seconds is fully loaded."""


class ShownMemory:
    """Compares the memory that readings show with what a consumer has reserved.

    Args:
        state: the state of the arbiter.
        observations_of: returns the latest observations of a consumer.
    """

    def __init__(self, state: ArbiterState, observations_of: Callable[[ConsumerState], Observations]) -> None:
        self._state = state
        self._observations_of = observations_of

    def update(self, name: str) -> None:
        """Note when the readings contain a consumer's whole memory, so that no reservation is needed on top of them.

        Args:
            name: the consumer.
        """
        consumer = self._state.consumer(name)
        if not consumer.devices or consumer.residency is not Residency.RESIDENT:
            return
        self._note_growth(consumer)
        consumer = self._state.consumer(name)
        observations = self._observations_of(consumer)
        reported_loaded = (
            observations.health.loaded
            if observations.health is not None and observations.health_requested_at > consumer.changed_at
            else None
        )
        may_load_again = consumer.spec.lazy or consumer.sleeping
        if not consumer.footprint_seen and self._is_fully_shown(consumer, reported_loaded):
            self._state.ledger.update(name, footprint_seen=True)
        elif consumer.footprint_seen and reported_loaded is False and may_load_again and consumer.claimed:
            self._state.ledger.reset_baseline(name)  # it unloaded by itself during its lease and may load again

    def _note_growth(self, consumer: ConsumerState) -> None:
        """Note when the memory of a reservation grows, and whether it grows in a container instead of the unit."""
        if consumer.footprint_seen:
            return
        samples = [self._state.device(device) for device in consumer.devices]
        if claims.is_in_container(consumer, samples):
            log.info("consumer %s: its memory is in a container, outside %s", consumer.name, consumer.spec.unit)
            self._state.ledger.set_in_container(consumer.name, in_container=True)
        if not consumer.claimed:
            return
        view, observations = self._state.view(), self._observations_of(consumer)
        shown_mib = sum(budget.shown_mib(view, device, consumer.name) for device in consumer.devices)
        if observations.claimed_at != consumer.claimed_at:
            observations.claimed_at, observations.shown_mib = consumer.claimed_at, shown_mib
        elif shown_mib > observations.shown_mib + SLACK_MIB:
            observations.shown_mib = shown_mib
            self._state.ledger.update(consumer.name, grew_at=self._state.clock.monotonic())

    def _is_fully_shown(self, consumer: ConsumerState, reports_loaded: bool | None) -> bool:
        readings = [self._state.device(device).held_by(consumer.name) for device in consumer.devices]
        known = [mib for mib in readings if mib is not None]
        if len(known) < len(readings):
            # The driver does not attribute memory to processes. One that is not lazy was loaded before it became
            # resident, so its memory is part of the unattributed total.
            return reports_loaded is True or not consumer.spec.lazy
        held_mib = min(known)
        observations, now = self._observations_of(consumer), self._state.clock.monotonic()
        if held_mib > observations.held_mib + SLACK_MIB or held_mib < observations.held_mib:
            observations.held_mib, observations.grew_at = held_mib, now
        is_still = holds_model(consumer.spec, held_mib) and now - observations.grew_at >= GROWTH_ENDED_SEC
        return held_mib >= consumer.footprint_mib * 0.9 or is_still
