"""A waiting request: its future result, and the evictions and loads done for it so far."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from gpumand.domain.decision import Requirement, with_advice
from gpumand.domain.device import Devices
from gpumand.domain.errors import DeviceUnavailable, GpumandError, TimedOut
from gpumand.domain.lease import Lease
from gpumand.domain.request import Request
from gpumand.domain.view import StandingLease


@dataclass(slots=True, eq=False)
class WaitingRequest:
    """One waiting request.

    Attributes:
        request: the Acquire or Load request.
        devices: devices it must use, or that must be among those it uses if it needs more; () = any that fit.
        done: resolved when the consumer is resident, with the granted lease (None for Load) or with an error;
            cancelled when the client has disconnected.
        wants_lease: True for Acquire, False for Load.
        from_own_unit: the caller runs in the consumer's own unit.
        waiting_for: the reason for waiting, in one line for ``GetStatus``.
        advice: what ends the wait, as a clause; "" = nothing to do.
        wait_error: the error of the decision to wait; None = it was not decided.
        unread_since: when a failed reading first stood in the way of its decision, in monotonic seconds; None = none.
        decided: a decision has been made; the next one needs a reading taken after it.
        sample_after: only readings taken after this time may be used for a decision, in monotonic seconds.
        evict_failed: victims whose eviction for this request freed nothing.
        evicted: victims evicted for this request, in order.
        evictions: attempted evictions for this request, including failed ones.
        loaded: whether its consumer was loaded for this request.
        ignores_turns: consumers that have their turn may be evicted for it, since it has waited long enough for them.
        gives_back: the lease of ``yield_lease``, until it is given back; None = none.
        own_leases: ids of leases that its client keeps until this request is decided.
        wanted_leases: ids of the leases whose holders were informed that it waits for them.
        restores: id of the lease whose consumer it makes resident again; "" = it is for a new lease.
    """

    request: Request
    devices: Devices
    done: asyncio.Future[Lease | None]
    wants_lease: bool = True
    from_own_unit: bool = False
    waiting_for: str = ""
    advice: str = ""
    wait_error: type[GpumandError] | None = None
    unread_since: float | None = None
    decided: bool = False
    sample_after: float = 0.0
    evict_failed: set[str] = field(default_factory=set)
    evicted: list[str] = field(default_factory=list)
    evictions: int = 0
    loaded: bool = False
    ignores_turns: bool = False
    gives_back: StandingLease | None = None
    own_leases: frozenset[str] = frozenset()
    restores: str = ""
    wanted_leases: set[str] = field(default_factory=set)

    @property
    def requirement(self) -> Requirement:
        """The part of the request that a decision depends on; equal for all requests that need the same."""
        return Requirement(
            self.request.consumer,
            self.devices,
            self.wants_lease,
            from_own_unit=self.from_own_unit,
            evictions_done=self.evictions,
            # No turn delays a manual load, which an administrator decided, or a client that gets its lease back.
            ignores_turns=self.ignores_turns or not self.wants_lease or bool(self.restores),
            exclusive=self.request.options.exclusive and self.wants_lease,
            gives_back=self.gives_back,
        )

    def wait_for(self, reason: str, advice: str = "", error: type[GpumandError] | None = None) -> None:
        """Set the reason for waiting, what ends it, and the error of a request that does not wait for that."""
        self.waiting_for, self.advice, self.wait_error = reason, advice, error

    def timed_out(self, timeout_sec: float, load_state: str = "") -> GpumandError:
        """The error for a request that has waited this long: the reason, and what the client can do.

        Args:
            timeout_sec: how long it has waited.
            load_state: what the last check of its consumer's load has shown; "" where it is not being loaded.
        """
        reason = self.waiting_for or "not decided yet"
        reason += f" ({load_state})" if load_state else ""
        advice = f"wait longer with option 'timeout_usec'{', or ' if self.advice else ''}{self.advice}"
        text = f"timed out after {timeout_sec:g} s waiting for {self.request.consumer}: {reason}"
        kind = DeviceUnavailable if self.wait_error is DeviceUnavailable else TimedOut
        return kind(with_advice(text, advice))

    @property
    def is_waiting(self) -> bool:
        """Whether it is neither granted, refused nor cancelled."""
        return not self.done.done()

    def grant(self, lease: Lease | None) -> None:
        """Grant it, unless it has ended already."""
        if self.is_waiting:
            self.done.set_result(lease)

    def refuse(self, error: GpumandError) -> None:
        """Refuse it with an error, unless it has ended already."""
        if self.is_waiting:
            self.done.set_exception(error)
            # Mark the exception as retrieved: asyncio logs one that no caller has read, and the client may be gone.
            self.done.exception()
