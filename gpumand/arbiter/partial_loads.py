"""Notes consumers of whose model only a part is in VRAM, as their servers report it."""

from __future__ import annotations

import logging

from gpumand.arbiter.state import ArbiterState
from gpumand.domain.location import computed_on_cpu
from gpumand.domain.partial_load import PartialLoad

log = logging.getLogger(__name__)


def note_partial_load(state: ArbiterState, name: str, partial: PartialLoad | None) -> None:
    """Record how much of a model is in VRAM, and log it if that is not all of it.

    Args:
        state: the arbiter's state.
        name: the consumer.
        partial: what its server reports; None = all of the model is in VRAM, or it is not loaded, or that is unknown.
    """
    if partial == state.consumer(name).partial:
        return
    state.ledger.update(name, partial=partial)
    finding = computed_on_cpu(state.ledger.devices, state.consumer(name))
    if finding:
        log.warning("consumer %s: %s", name, finding)
