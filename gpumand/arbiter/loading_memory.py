"""The VRAM of a consumer during one load, compared with what was there before."""

from __future__ import annotations

from gpumand.arbiter.state import ArbiterState
from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.eviction_check import SLACK_MIB
from gpumand.domain.residency import SHOWN_SHARE, context_mib, is_memory_missing
from gpumand.domain.wording import format_mib

GROWTH_REST_SEC = 1.5
"""Seconds without growth after which the memory of a load is complete, although it is less than the footprint."""


class LoadingMemory:
    """What the processes of a consumer hold while it is being loaded."""

    def __init__(self, state: ArbiterState, spec: ConsumerSpec) -> None:
        self._state, self._spec = state, spec
        self._unnamed_before_mib: int | None = None
        self._held_at_call_mib = self._unnamed_at_call_mib = 0
        self._peak_mib, self._grew_at = 0, 0.0

    def begin(self) -> None:
        """Note the memory of other processes: what is there before the load is not its model."""
        self._unnamed_before_mib = self._state.unnamed_mib()

    def route_is_called(self) -> None:
        """Note the memory before a load route is called, to see whether it grows."""
        self._held_at_call_mib = self.held_mib() or 0
        self._unnamed_at_call_mib = self._state.unnamed_mib() or 0

    def has_grown(self) -> bool:
        """Whether memory has grown by a model since the load route was called, or since its server held least."""
        threshold_mib, held_mib, unnamed_mib = (
            context_mib(self._spec),
            self.held_mib(),
            self._state.unnamed_mib(),
        )
        if held_mib is not None:
            self._held_at_call_mib = min(self._held_at_call_mib, held_mib)  # a former model was unloaded for this one
            return held_mib - self._held_at_call_mib > threshold_mib
        return unnamed_mib is not None and unnamed_mib - self._unnamed_at_call_mib > threshold_mib

    def held_mib(self) -> int | None:
        """MiB that its processes hold; None where the readings cannot say."""
        readings = [sample.held_by(self._spec.name) for sample in self._state.ledger.devices.values()]
        known = [mib for mib in readings if mib is not None]
        if len(known) < len(readings):
            return sum(known) or None
        return max(known) if self._spec.device_count > 1 else sum(known)

    def holds_all(self) -> bool:
        """Whether its processes hold nearly its whole footprint, which is more than a failed load leaves behind."""
        held_mib = self.held_mib()
        return held_mib is not None and held_mib >= SHOWN_SHARE * self._state.consumer(self._spec.name).footprint_mib

    def is_growing(self, now: float) -> bool:
        """Whether its processes hold less than the footprint, and have held less still a moment ago.

        Half a model is not one: a server without any health check, or one that answers before its model is there, would
        be granted as soon as its processes hold more than a CUDA context.

        Args:
            now: the time of the last reading, in monotonic seconds.
        """
        held_mib = self.held_mib()
        if self._spec.lazy or held_mib is None or self.holds_all():
            return False
        if held_mib > self._peak_mib + SLACK_MIB:
            self._peak_mib, self._grew_at = held_mib, now
        return now - self._grew_at < GROWTH_REST_SEC

    def is_released(self) -> bool:
        """Whether its processes hold no more than after an unload, as far as readings can say."""
        held_mib = self.held_mib()
        return held_mib is not None and held_mib <= self._spec.residual_mib + SLACK_MIB

    def is_missing(self, *, began_here: bool) -> bool:
        """Whether readings contradict that its model is in VRAM.

        Args:
            began_here: this load has started its model, so that memory from before it cannot be the model.
        """
        if self._state.consumer(self._spec.name).in_container:
            return False
        unnamed_mib = self._state.unnamed_mib()
        if began_here and unnamed_mib is not None and self._unnamed_before_mib is not None:
            unnamed_mib = max(0, unnamed_mib - self._unnamed_before_mib)
        return is_memory_missing(self._spec, self.held_mib(), unnamed_mib)

    def describe(self) -> str:
        """What its processes hold, and what a loaded model holds."""
        footprint_mib = self._state.consumer(self._spec.name).footprint_mib
        held = f"its processes hold {self.held_mib() or 0} MiB of VRAM"
        return f"{held}, and a loaded {self._spec.name} holds {format_mib(footprint_mib)}"

    def advice(self) -> str:
        """What to declare where the processes never hold what a loaded model should hold."""
        table = f"consumers.{self._spec.name}"
        if (self.held_mib() or 0) > SLACK_MIB:
            return f". If this is its whole model, correct vram_resident_mib in {table}"
        if self._spec.load is not None:
            return ""
        # A service with an unload route and no load route counts as one that loads with its first request.
        first = f"declare its unload route in {table}, which a service that loads with its first request needs"
        return f". Start its model with its unit, declare a load route, or {first}"
