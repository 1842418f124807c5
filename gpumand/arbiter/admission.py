"""Checks that refuse a call at once, before it enters the queue."""

from __future__ import annotations

from gpumand.arbiter import log_messages
from gpumand.arbiter.limits import lease_limit_error, queue_limit_error
from gpumand.arbiter.scheduler import Scheduler
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.work_gate import WorkGate
from gpumand.domain.errors import GpumandError, InvalidArgs, ShuttingDown
from gpumand.domain.events import RequestRefused
from gpumand.domain.lease import LeaseLifetime, Owner
from gpumand.domain.name_suggestions import no_such_consumer
from gpumand.domain.request import AcquireOptions
from gpumand.domain.reservation import PUBLIC_LABEL, public_name
from gpumand.domain.residency_states import Residency


class Admission:
    """Checks a call against the configuration and the limits; each ``check`` raises or returns nothing.

    Attributes:
        stopping: why gpumand grants no more leases, in one line; "" while it does.
    """

    def __init__(self, state: ArbiterState, scheduler: Scheduler, gate: WorkGate) -> None:
        self._state, self._scheduler, self._gate = state, scheduler, gate
        self.stopping = ""

    def check(self, owner: Owner, consumer: str, options: AcquireOptions, *, is_reservation: bool = False) -> None:
        """All checks of an Acquire. A reservation was added by its own request. Raises GpumandError."""
        self.check_accepting()
        if not is_reservation:
            self.check_configured(consumer)
        self.check_devices(consumer, options.device)
        if options.lifetime is LeaseLifetime.UNIT and not owner.unit:
            raise InvalidArgs("lifetime 'unit' requires a caller that runs in a systemd unit; use another lifetime")
        if error := lease_limit_error(self._state.ledger, owner.uid):
            raise error
        self.check_queue()

    def check_devices(self, consumer: str, wanted: str) -> None:
        """Check the requested devices, given by index, UUID or PCI address with commas between them; "" = any.

        Raises:
            NoSuchDevice, DeviceUnavailable, InvalidArgs (more devices than the consumer runs on).
        """
        count, devices = self._state.consumer(consumer).spec.device_count, self._state.ledger.resolve_devices(wanted)
        if len(devices) > count:
            raise InvalidArgs(f"{consumer} runs on {count} device{'s' if count > 1 else ''}, not on {len(devices)}")

    def check_queue(self) -> None:
        """Check that one more request may wait. Raises LimitsExceeded."""
        if error := queue_limit_error(len(self._scheduler)):
            raise error

    def check_callable(self, consumer: str) -> None:
        """Check that calls for this consumer are accepted at the moment. Raises ShuttingDown, NoSuchConsumer."""
        self.check_accepting()
        self.check_configured(consumer)

    def check_accepting(self) -> None:
        """Check that calls are accepted at the moment. Raises ShuttingDown."""
        if why := self.stopping or self._gate.refused:
            raise ShuttingDown(why)

    def check_configured(self, consumer: str) -> None:
        """Check that a consumer is configured. Raises NoSuchConsumer.

        The ledger also keeps consumers that a reload has removed, until their last lease ends; they get no new leases.
        """
        if consumer not in self._state.settings.consumers:
            raise no_such_consumer(consumer, self._state.settings.consumers)

    def is_load_satisfied(self, consumer: str, device: str) -> bool:
        """Whether a load has nothing to do and need not queue behind requests that want a lease.

        A lazy consumer that counts as resident may only have its memory reserved, so a load request still runs.
        """
        consumer_state, wanted = self._state.consumer(consumer), self._state.ledger.resolve_devices(device)
        is_being_evicted = any(consumer in job.evicting for job in self._state.ledger.jobs.values())
        is_resident = (
            consumer_state.residency is Residency.RESIDENT and bool(consumer_state.devices) and not is_being_evicted
        )
        is_resident = is_resident and not consumer_state.is_doubtful
        return is_resident and not consumer_state.spec.lazy and (not wanted or wanted == consumer_state.devices)

    def count_refusal(self, owner: Owner, consumer: str, error: GpumandError) -> None:
        """Count, log and announce the refusal of a request."""
        self._state.count(refusals=1)
        log_messages.refusal(consumer or PUBLIC_LABEL, owner, error)
        self._state.publish(RequestRefused(public_name(consumer), owner.uid, error.dbus_name, error.message))
