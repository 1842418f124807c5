"""What is known, and how the world is told of it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from gpumand.arbiter import log_messages
from gpumand.domain.backfill import BackfillAccounting
from gpumand.domain.consumer import Residency, Settings
from gpumand.domain.device import Reading, Sample
from gpumand.domain.events import ConsumersChanged, DevicesChanged, Event, SummaryChanged
from gpumand.domain.ledger import Ledger
from gpumand.domain.load_overlap import Overlapping
from gpumand.domain.status import Stats
from gpumand.domain.view import ConsumerState, View
from gpumand.ports import Clock, HostMemory, VramSource

log = logging.getLogger(__name__)

Publish = Callable[[Event], None]

_FOR_SO_LONG = re.compile(r" for \d+ s\b")


class ArbiterState:
    """The ledger with a clock, a source of figures and an audience.

    Changes are collected and told once, by ``tell``, when a piece of work has left everything consistent.
    """

    def __init__(
        self, settings: Settings, clock: Clock, source: VramSource, memory: HostMemory, publish: Publish
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.configured_usec = clock.realtime_usec()
        self.publish = publish
        self.stats = Stats()
        self.sampled_at = float("-inf")
        self.source_error = ""
        self._source, self._memory = source, memory
        self._void_before = float("-inf")
        self._dirty: set[str] = set()
        self.overtakings, self.overlapping = BackfillAccounting(), Overlapping()
        self.wanted: Mapping[str, int] = {}
        self._devices_told: Mapping[int, Sample] = {}
        self._devices_seen: tuple[tuple[object, ...], ...] = ()
        self.ledger = Ledger(settings.scheduler, self._dirty.add)
        self.ledger.configure(settings.scheduler, settings.consumers.values())

    def view(self, evict_failed: frozenset[str] = frozenset()) -> View:
        """Everything at this moment."""
        may_overlap = self.overlapping.devices(self.ledger.settings, self.ledger.devices)
        return self.ledger.view(self.clock.monotonic(), evict_failed, self.wanted, may_overlap)

    def state(self, name: str) -> ConsumerState:
        """One consumer's state. Raises NoSuchConsumer."""
        return self.ledger.consumer(name)

    def count(self, **more: int) -> None:
        """Add to counters of the statistics."""
        self.stats = replace(self.stats, **{name: getattr(self.stats, name) + by for name, by in more.items()})

    def set_residency(
        self,
        name: str,
        residency: Residency,
        *,
        error: str | None = None,
        own_move: bool = True,
        unit_moved: bool = True,
    ) -> None:
        """Note a new residency.

        Args:
            name: which consumer.
            residency: what it is now.
            error: one line, "" when all is well; None leaves it as it is.
            own_move: it was our doing: what was asked before this moment says nothing about it any more.
            unit_moved: and neither does what was heard of its unit; where our move was over a while ago, it does.
        """
        state, now = self.state(name), self.clock.monotonic()
        if own_move:
            self.ledger.update(name, changed_at=now, says_loaded=False, jobs=None)
            if unit_moved:
                self.ledger.update(name, unit_moved_at=now)
        if error is not None and error != state.error:
            self.ledger.update(name, error=error)
        if residency is not state.residency:
            shown = state.shown and residency is Residency.RESIDENT
            since_usec = self.clock.realtime_usec()
            self.ledger.update(name, residency=residency, since_usec=since_usec, idle_since=now, shown=shown)
            log.debug("consumer %s: %s, was %s", name, residency, state.residency)

    async def sample(self) -> None:
        """Take figures that were not read before this call; none older than those in the books replace them."""
        if any(state.spec.parks for state in self.ledger.consumers.values()):
            self.ledger.note_host_ram(await self._memory.available_mib())
        reading = await self._source.read()
        self.take(reading)

    def take(self, reading: Reading) -> None:
        """Put a reading into the books."""
        taken_at = max((sample.taken_at for sample in reading.devices), default=self.clock.monotonic())
        if taken_at < max(self.sampled_at, self._void_before):
            return
        before = self.degraded if self.sampled_at > float("-inf") else ""  # not yet read is not degraded
        self.sampled_at = taken_at
        self.source_error = reading.error
        self.ledger.take_reading(reading, self.settings.gpu.total_mib)
        if _without_times(self.degraded) != _without_times(before):
            log_messages.degraded(self.degraded)

    def void(self) -> None:
        """What was opened or read before this moment says nothing any more, a reading under way included."""
        self._source.renew()
        self._void_before = self.clock.monotonic()

    def device(self, index: int) -> Sample:
        """The last sample of a device; what is left of one that is gone has no figures."""
        gone = replace(self.ledger.devices[min(self.ledger.devices)], index=index, total_mib=None, used_mib=None)
        gone = replace(gone, free_mib=None, processes=(), attributed=False, error="the device is gone")
        return self.ledger.devices.get(index, gone)

    @property
    def degraded(self) -> str:
        """Why gpumand does less than it could, in one line; "" when all is well."""
        if self.source_error:
            return self.source_error
        return "; ".join(f"device {one.index}: {one.error}" for one in self.ledger.devices.values() if one.error)

    def tell(self) -> None:
        """Tell the world what has changed since the last time."""
        if self._dirty:
            names = frozenset(self._dirty)
            self._dirty.clear()
            self.publish(ConsumersChanged(names))
        self._tell_devices()
        self.publish(SummaryChanged())

    def _tell_devices(self) -> None:
        """Nothing new is to be seen of them before the next reading, which brings samples of its own."""
        if self.ledger.devices is self._devices_told:
            return
        self._devices_told = devices = self.ledger.devices
        seen = tuple((one.index, one.uuid, one.name, one.total_mib, one.error) for one in devices.values())
        if seen != self._devices_seen:
            self._devices_seen = seen
            self.publish(DevicesChanged())


def _without_times(error: str) -> str:
    """What hangs does so for longer at every look, and is told once."""
    return _FOR_SO_LONG.sub("", error)
