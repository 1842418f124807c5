"""What a request needs, and what is decided about it: grant, wait or refuse. ``planning`` makes the decisions."""

from __future__ import annotations

from dataclasses import dataclass

from gpumand.domain.device import Devices
from gpumand.domain.errors import Busy, GpumandError
from gpumand.domain.request import PlannedEviction, SparedConsumer, Verdict
from gpumand.domain.view import StandingLease


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a request needs: a consumer, on which devices, and whether as a lease.

    Attributes:
        consumer: name of the requested consumer.
        devices: the devices it must be on, or that must be among its own where it needs more; () = any that fit.
        wants_lease: a lease is granted afterwards (Acquire), so that lease slots count; False for a manual load.
        holds_slot: its lease slot is reserved already (the job that loaded it was its own).
        from_own_unit: the request comes from within the consumer's own unit, which is starting. Waiting for that unit
            to start would be a deadlock.
        evictions_done: evictions already tried for it; ``max_evictions`` counts all of them.
        ignores_turns: consumers that have their turn may be evicted for it.
        exclusive: its lease needs devices without any other lease.
        gives_back: the lease that ends for a while if the request is granted; it does not stand in its way.
    """

    consumer: str
    devices: Devices = ()
    wants_lease: bool = True
    holds_slot: bool = False
    from_own_unit: bool = False
    evictions_done: int = 0
    ignores_turns: bool = False
    exclusive: bool = False
    gives_back: StandingLease | None = None


@dataclass(frozen=True)  # without slots, for copy_with
class Decision:
    """What is decided about a requirement: grant, wait or refuse, and why.

    Attributes:
        verdict: grant, wait or refuse.
        place: the devices that it takes together; () only when refused before any were chosen.
        resident: the consumer is resident: only the grant is left to do.
        load: the consumer is to be loaded (after ``evictions``).
        need_mib, free_mib: see ``budget``; None = unknown. Of several devices: on the one with least to spare.
        evictions: victims in order, when the verdict is grant.
        spared: consumers on the devices that are not victims, and why.
        error: the error of a refusal; for a wait, the error where the caller does not wait.
        message: one line: why.
        advice: for a wait, what ends it, as a clause that can begin a sentence or follow "or"; "" = nothing to do.
        needs_fresh_sample: VRAM readings went into it, so that it may be carried out only on a fresh sample.
        eligible_devices: devices on which it can be served now or later, so that no later request may take them.
        busy: consumers whose own work it waits for.
        cost: cost of the evictions, by the policy in force.
        extra_devices: further devices that its victims are on.
        retry_at: when to decide again without any other event, in monotonic seconds; None = it depends on no time.
        leases: ids of the leases that it waits for: without their end it cannot be granted on these devices.
        holders: the consumers whose leases it waits for on any of the places that it could take, whether or not they
            are leased; ``leases`` and the message are about the best place only.
        unread: why a device that it depends on cannot be read at the moment, in one line; "" where all can be read.
    """

    verdict: Verdict
    place: Devices = ()
    resident: bool = False
    load: bool = False
    need_mib: int | None = None
    free_mib: int | None = None
    evictions: tuple[PlannedEviction, ...] = ()
    spared: tuple[SparedConsumer, ...] = ()
    error: type[GpumandError] | None = None
    message: str = ""
    advice: str = ""
    needs_fresh_sample: bool = False
    eligible_devices: tuple[int, ...] = ()
    busy: tuple[str, ...] = ()
    cost: float = 0.0
    extra_devices: Devices = ()
    retry_at: float | None = None
    unread: str = ""
    leases: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()

    @property
    def explanation(self) -> str:
        """The message, with the advice as a sentence of its own."""
        return with_advice(self.message, self.advice)


def with_advice(message: str, advice: str) -> str:
    """A message, and advice as a sentence of its own after it; the message alone where there is no advice."""
    return f"{message}. {advice[0].upper()}{advice[1:]}." if advice else message


def wait(place: Devices, message: str, advice: str = "", leases: tuple[str, ...] = ()) -> Decision:
    """A decision to wait, also for ``leases``; the message names the blocker, the advice says what ends the wait."""
    return Decision(Verdict.WAIT, place, error=Busy, message=message, advice=advice, leases=leases)


def refuse(error: type[GpumandError], message: str, place: Devices = ()) -> Decision:
    """A decision to refuse with this error."""
    return Decision(Verdict.REFUSE, place, error=error, message=message)
