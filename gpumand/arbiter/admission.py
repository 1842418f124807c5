"""What of a call can be refused at once, before it waits for anything."""

from __future__ import annotations

from gpumand.arbiter.scheduler import MAX_LEASES, MAX_LEASES_PER_UID, Scheduler
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.work_gate import WorkGate
from gpumand.domain.errors import InvalidArgs, LimitsExceeded, ShuttingDown
from gpumand.domain.lease import LeaseLifetime, Owner
from gpumand.domain.name_suggestions import no_such_consumer
from gpumand.domain.request import AcquireOptions

MAX_WAITING = 512


class Admission:
    """Looks at who asks for what; raises, or lets it pass.

    Attributes:
        stopping: why nothing is granted any more; "" while it is.
    """

    def __init__(self, arbiter_state: ArbiterState, scheduler: Scheduler, gate: WorkGate) -> None:
        self._books, self._desk, self._gate = arbiter_state, scheduler, gate
        self.stopping = ""

    def check(self, owner: Owner, consumer: str, options: AcquireOptions) -> None:
        """All that an Acquire may be refused for. Raises GpumandError."""
        self.check_callable(consumer)
        self.check_devices(consumer, options.device)
        if options.lifetime is LeaseLifetime.UNIT and not owner.unit:
            raise InvalidArgs("lifetime 'unit' needs a caller that runs in a systemd unit")
        leases = self._books.ledger.leases
        own = sum(1 for lease in leases.values() if lease.owner.uid == owner.uid)
        if own >= MAX_LEASES_PER_UID:
            raise LimitsExceeded(f"uid {owner.uid} has {own} leases; more are not allowed")
        if len(leases) >= MAX_LEASES:
            raise LimitsExceeded(f"{MAX_LEASES} leases stand; more are not allowed")
        self.check_queue()

    def check_devices(self, consumer: str, wanted: str) -> None:
        """Raises NoSuchDevice, DeviceUnavailable, InvalidArgs (more than it takes)."""
        count, devices = self._books.state(consumer).spec.device_count, self._books.ledger.devices_named(wanted)
        if len(devices) > count:
            raise InvalidArgs(f"{consumer} runs on {count} device{'s' if count > 1 else ''}, not on {len(devices)}")

    def check_queue(self) -> None:
        """Raises LimitsExceeded."""
        if len(self._desk) >= MAX_WAITING:
            raise LimitsExceeded(f"{MAX_WAITING} requests are waiting; more are not allowed")

    def check_callable(self, consumer: str) -> None:
        """Raises ShuttingDown, NoSuchConsumer."""
        if why := self.stopping or self._gate.refused:
            raise ShuttingDown(why)
        self.check_configured(consumer)

    def check_configured(self, consumer: str) -> None:
        """One that only its leases keep alive after a reload is not lent again. Raises NoSuchConsumer."""
        if consumer not in self._books.settings.consumers:
            raise no_such_consumer(consumer, self._books.settings.consumers)
