"""A request while it waits: its future, and what has been done for it so far."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from gpumand.domain.device import Devices
from gpumand.domain.errors import GpumandError
from gpumand.domain.lease import Lease
from gpumand.domain.planning import Requirement
from gpumand.domain.request import Request


@dataclass(slots=True, eq=False)
class Waiting:
    """One waiting request.

    Attributes:
        request: what is asked for.
        devices: those it must be on, or that must be among its own where it needs more; () = any that fit.
        done: resolved when the consumer is resident, with the lease that stands (None for Load by hand), or with the
            one error; cancelled when the client has gone.
        wants_lease: True for Acquire, False for Load by hand.
        from_own_unit: the caller runs in the consumer's own unit.
        waiting_for: one line for ``GetStatus``.
        decided: a decision has been made on what was true then; the next one wants a sample taken after it.
        sample_after: monotonic seconds; only figures read after this moment may decide.
        evict_failed: victims that gave nothing back for it.
        evicted: victims evicted for it, in order.
        evictions: evictions tried for it, well or not.
        loaded: whether its consumer was loaded for it.
    """

    request: Request
    devices: Devices
    done: asyncio.Future[Lease | None]
    wants_lease: bool = True
    from_own_unit: bool = False
    waiting_for: str = ""
    decided: bool = False
    sample_after: float = 0.0
    evict_failed: set[str] = field(default_factory=set)
    evicted: list[str] = field(default_factory=list)
    evictions: int = 0
    loaded: bool = False

    @property
    def requirement(self) -> Requirement:
        """What is to be decided for it."""
        return Requirement(
            self.request.consumer,
            self.devices,
            self.wants_lease,
            from_own_unit=self.from_own_unit,
            evictions_done=self.evictions,
        )

    @property
    def is_waiting(self) -> bool:
        """Neither granted, refused nor given up."""
        return not self.done.done()

    def resolve(self, lease: Lease | None) -> None:
        """End it well, unless it has ended already."""
        if self.is_waiting:
            self.done.set_result(lease)

    def refuse(self, error: GpumandError) -> None:
        """End it with its one error, unless it has ended already."""
        if self.is_waiting:
            self.done.set_exception(error)
            self.done.exception()  # whoever waited for it may have gone: that is no fault worth a line in the log
