"""Devices that a manual eviction waits for."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from gpumand.domain.decision import Decision
from gpumand.domain.device import Devices

MANUAL_EVICTION = "a manual eviction comes first"


class ManualReservations:
    """Keeps devices free of new jobs while manual evictions wait for them; several may wait for the same device."""

    def __init__(self) -> None:
        self._waiting: Counter[int] = Counter()

    @contextlib.contextmanager
    def reserve(self, devices: Devices) -> Iterator[None]:
        """Start no new job on these devices while a manual eviction waits for them."""
        self._waiting.update(devices)
        try:
            yield
        finally:
            self._waiting.subtract(devices)
            self._waiting = +self._waiting  # unary plus drops the entries that are zero

    def concern(self, decision: Decision) -> bool:
        """Whether a decision would start a job on a reserved device."""
        return any(device in self._waiting for device in (*decision.place, *decision.extra_devices))
