"""Loads that an administrator requests."""

from __future__ import annotations

from gpumand.arbiter.admission import Admission
from gpumand.arbiter.new_requests import NewRequests
from gpumand.arbiter.request_waits import RequestWaits
from gpumand.arbiter.scheduler import Scheduler
from gpumand.arbiter.state import ArbiterState
from gpumand.domain.device import format_devices
from gpumand.domain.request import ManualResult


class ManualLoads:
    """Loads consumers without granting leases; a load waits in the queue like any request.

    Args:
        state: the arbiter's state.
        scheduler: has the queue.
        admission: checks each load before it enters the queue.
        requests: makes the requests.
        waits: waits for their results.
    """

    def __init__(
        self,
        state: ArbiterState,
        scheduler: Scheduler,
        admission: Admission,
        requests: NewRequests,
        waits: RequestWaits,
    ) -> None:
        self._state, self._scheduler, self._admission = state, scheduler, admission
        self._requests, self._waits = requests, waits

    async def load(self, consumer: str, device: str, timeout_sec: float) -> ManualResult:
        """Load a consumer; returns when it is resident, at once where it is already. Raises the errors of Acquire."""
        self._admission.check_callable(consumer)
        began = self._state.clock.monotonic()
        self._admission.check_devices(consumer, device)
        if self._admission.is_load_satisfied(consumer, device):
            return ManualResult(consumer, format_devices(self._state.consumer(consumer).devices))
        self._admission.check_queue()
        entry = self._requests.make_load(consumer, timeout_sec, device)
        self._scheduler.add(entry)
        await self._waits.result(entry)
        return ManualResult(
            consumer,
            format_devices(self._state.consumer(consumer).devices),
            changed=entry.loaded,
            evicted=tuple(entry.evicted),
            duration_usec=int((self._state.clock.monotonic() - began) * 1e6),
        )
