"""Makes the requests that the scheduler queues."""

from __future__ import annotations

import asyncio

from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.waiting_request import WaitingRequest, WaitProgress
from gpumand.domain.lease import Owner
from gpumand.domain.request import AcquireOptions, Request

NO_CLIENT = Owner(bus_name="", uid=0)
"""The owner of a request that belongs to no client: Load by an administrator, and a load resumed at start."""


class NewRequests:
    """Numbers requests in the order of their arrival and completes them from the configuration of their consumer."""

    def __init__(self, state: ArbiterState) -> None:
        self._state = state
        self._arrivals = 0

    def make(self, owner: Owner, consumer: str, options: AcquireOptions, *, wants_lease: bool = True) -> WaitingRequest:
        """A new request, not queued yet. Raises NoSuchConsumer, NoSuchDevice, DeviceUnavailable."""
        spec, now = self._state.consumer(consumer).spec, self._state.clock.monotonic()
        self._arrivals += 1
        priority = spec.priority if options.priority is None else options.priority
        return WaitingRequest(
            Request(self._arrivals, consumer, owner, options, priority, now),
            self._state.ledger.resolve_devices(options.device),
            asyncio.get_running_loop().create_future(),
            wants_lease=wants_lease,
            from_own_unit=bool(owner.unit) and owner.unit == spec.unit,
            progress=WaitProgress(sample_after=now),
        )

    def make_load(self, consumer: str, timeout_sec: float, device: str = "") -> WaitingRequest:
        """A new request that loads a consumer without a lease; raises like ``make``.

        Args:
            consumer: the consumer.
            timeout_sec: how long it may wait.
            device: the devices to load it on, like the option of Acquire; "" = any.
        """
        return self.make(NO_CLIENT, consumer, AcquireOptions(device=device, timeout_sec=timeout_sec), wants_lease=False)
