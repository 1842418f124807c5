"""Loads a leased consumer again after it lost its model or its process, once, for leases that requested it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from gpumand.arbiter.rereads import Rereads
from gpumand.arbiter.scheduler import Scheduler
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.timeouts import finished_within
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.arbiter.work_gate import WorkGate
from gpumand.domain.decision import Decision, Requirement, wait
from gpumand.domain.device import Devices
from gpumand.domain.events import Event, LeaseDegraded, LeaseGranted, LeaseRestored
from gpumand.domain.planning import decide
from gpumand.domain.request import Verdict
from gpumand.domain.residency_states import Residency

log = logging.getLogger(__name__)

WITHOUT_MODEL = frozenset({Residency.UNLOADED, Residency.PARKED, Residency.FAILED})


RESTORER_EVENTS = (LeaseDegraded, LeaseRestored, LeaseGranted)
"""The types of events for ``record_event``."""


class LeaseRestorer:
    """Starts one load for each loss of a consumer that has a lease with the option ``restore``.

    The load does not queue: requests ahead of it may wait for the very lease that it is for. The consumer's footprint
    stays reserved for as long as it is leased, so only memory of other programs can be in the way.

    Args:
        state: the arbiter's state.
        scheduler: runs the load as a job on the consumer's devices.
        gate: whether new work may begin at the moment.
        new_request: makes the request of a load, from the consumer and its timeout in seconds.
    """

    def __init__(
        self,
        state: ArbiterState,
        scheduler: Scheduler,
        gate: WorkGate,
        new_request: Callable[[str, float], WaitingRequest],
    ) -> None:
        self._state, self._scheduler, self._gate, self._new_request = state, scheduler, gate, new_request
        self._rereads = Rereads(state)
        self._tried: set[str] = set()

    def record_event(self, event: Event) -> None:
        """Start a load after a loss; the next loss may start one only after the consumer was back."""
        # A grant, too, shows that it is back: the degraded leases may have ended before, and are never restored then.
        if isinstance(event, LeaseRestored | LeaseGranted):
            self._tried.discard(event.lease.consumer)
        elif isinstance(event, LeaseDegraded) and event.lease.restore and event.lease.consumer not in self._tried:
            self._tried.add(event.lease.consumer)
            self._scheduler.background.spawn(self._restore(event.lease.consumer))

    async def _restore(self, name: str) -> None:
        deadline = self._state.clock.monotonic() + self._state.consumer(name).spec.load_timeout_sec
        while self._is_wanted(name):
            left_sec = deadline - self._state.clock.monotonic()
            if left_sec <= 0:
                self._state.explain_loss(name, "it was not loaded again, because its devices stayed in use")
                break
            decision = await self._rereads.settled(partial(self._decide, name))
            if decision.verdict is not Verdict.WAIT:
                await self._carry_out(name, decision)
                break
            await finished_within(self._state.clock, self._scheduler.next_step(), left_sec)

    def _decide(self, name: str) -> Decision:
        """Whether there is room for it now; other programs may have taken its memory meanwhile."""
        if not self._is_wanted(name) or not self._may_start(name):
            return wait((), "its devices are in use")
        return decide(self._state.view(), Requirement(name, self._devices(name), wants_lease=False))

    def _is_wanted(self, name: str) -> bool:
        """Whether a lease still waits for its consumer."""
        leases = self._state.ledger.leases.values()
        return any(lease.consumer == name and lease.restore and lease.degraded for lease in leases)

    def _may_start(self, name: str) -> bool:
        """Whether the load may begin now: not while the consumer starts by itself, or its devices are in use."""
        consumer, devices = self._state.consumer(name), self._devices(name)
        loading = any(not set(devices).isdisjoint(one.devices) for one in self._state.view().loading)
        is_free = self._state.ledger.jobs.keys().isdisjoint(devices) and not loading
        return self._gate.is_open and is_free and consumer.residency in WITHOUT_MODEL

    def _devices(self, name: str) -> Devices:
        return self._state.consumer(name).devices or (min(self._state.ledger.devices),)

    async def _carry_out(self, name: str, decision: Decision) -> None:
        """Start the load. There must be no await between the decision and this call."""
        if decision.verdict is Verdict.REFUSE:
            log.warning("consumer %s was lost during its lease and cannot be loaded again: %s", name, decision.message)
            self._state.explain_loss(name, f"it cannot be loaded again: {decision.message}")
            return
        log.info("consumer %s was lost during its lease: loading it again", name)
        entry = self._new_request(name, self._state.consumer(name).spec.load_timeout_sec)
        self._scheduler.start_load(entry, decision)
        await asyncio.wait([entry.done])
