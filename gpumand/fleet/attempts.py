"""One request while it is placed: the answers of hosts, the granted lease, and the texts of errors."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpumand.client.errors import NoAnswer, NotRunning
from gpumand.domain.errors import GpumandError, NotNowError, ShuttingDown
from gpumand.fleet.answers import quoted_sec
from gpumand.fleet.calls import AcquireCall
from gpumand.fleet.errors import HostLost
from gpumand.fleet.intents import Permit
from gpumand.fleet.json_fields import one_line
from gpumand.fleet.lease_streams import LeaseHandle
from gpumand.fleet.placement import Candidate, Quote
from gpumand.fleet.remote_host import HOST_LOST
from gpumand.fleet.rows import HostRow

AWAY = (HostLost, NotRunning, NoAnswer, ShuttingDown)
"""Refusals of hosts that are not there now, or whose gpumand restarts: the request may be served a moment later."""


class PlacedLease:
    """A lease on some host of the fleet.

    Attributes:
        grant: the grant of the host, with ``degraded`` if it was placed without the store.
    """

    def __init__(self, lease: LeaseHandle, degraded: str, lost: Callable[[], None]) -> None:
        self._lease, self._lost = lease, lost
        self.grant: dict[str, Any] = {**lease.grant} | ({"degraded": degraded} if degraded else {})

    async def wait_ended(self) -> str:
        """See LeaseHandle; "host-lost" if its host gave no sign of life."""
        reason = await self._lease.wait_ended()
        if reason == HOST_LOST:
            self._lost()
        return reason

    async def release(self) -> None:
        """See LeaseHandle."""
        await self._lease.release()


@dataclass
class Attempt:
    """One request while it is placed.

    Attributes:
        call: the request.
        deadline: until when it may wait, see ``now``.
        refusals: the last answer of each host that refused, by machine id, in the order of the answers.
        corrections: how often it was placed again because the table was old.
        old_rows: orders of rows that show the consumer loaded although their hosts deny it, by machine id.
    """

    call: AcquireCall
    deadline: float
    refusals: dict[str, GpumandError] = field(default_factory=dict)
    corrections: int = 0
    old_rows: dict[str, tuple[int, int]] = field(default_factory=dict)

    def refused(self, machine_id: str, error: GpumandError) -> None:
        """Note the refusal of a host."""
        self.refusals.pop(machine_id, None)  # the order is that of the last answers
        self.refusals[machine_id] = error

    def is_row_old(self, row: HostRow) -> bool:
        """Whether a host has denied what this row of it shows."""
        return self.old_rows.get(row.machine_id) == row.order

    @property
    def may_wait(self) -> bool:
        """Whether the wait for a host can help: none that answered has refused the request for another reason."""
        return all(isinstance(one, AWAY) for one in self.refusals.values())

    def error(self) -> GpumandError:
        """The error of the request: of the refusals, one that may end by itself is the most useful."""
        errors = list(self.refusals.values())
        first = next(
            (one for one in errors if isinstance(one, NotNowError) and not isinstance(one, HostLost)), errors[0]
        )
        if len(errors) == 1:
            return first
        merged = type(first)("; ".join(one.message.rstrip(".") for one in errors))
        merged.dbus_name = first.dbus_name
        return merged

    @property
    def left_sec(self) -> float:
        """Seconds that it may still wait; negative after its end."""
        return self.deadline - now()


def now() -> float:
    """Seconds of the event loop's clock."""
    return asyncio.get_running_loop().time()


def describe_state(row: HostRow, losses: Mapping[str, str], drained: Collection[str]) -> str:
    """Why a host that has a consumer cannot serve it."""
    if row.machine_id in losses:
        return f"is lost ({losses[row.machine_id].rstrip('.')})"
    if row.outdated:
        return row.outdated
    return "is drained" if row.machine_id in drained else "has too little memory"


def describe_place(one: Candidate, permit: Permit) -> dict[str, Any]:
    """The answer to a PlaceCall."""
    return {
        "host": one.row.name,
        "machine_id": one.row.machine_id,
        "gateway": one.row.gateway,
        "residency": str(one.consumer.residency),
        "expected_sec": round(one.expected_sec, 3) if math.isfinite(one.expected_sec) else None,
        "degraded": permit.degraded,
    }


def describe_return(row: HostRow) -> dict[str, Any]:
    """The answer to a PlaceCall for a consumer of a host whose gpumand restarts: its gateway waits for it."""
    return {
        "host": row.name,
        "machine_id": row.machine_id,
        "gateway": row.gateway,
        "residency": "unknown",
        "expected_sec": None,
        "degraded": "",
    }


def describe_plan(one: Candidate, plan: dict[str, Any] | GpumandError) -> dict[str, Any]:
    """A host and its plan, in the answer to a PlanCall."""
    fields: dict[str, Any] = {
        "host": one.row.name,
        "machine_id": one.row.machine_id,
        "residency": str(one.consumer.residency),
        "queue": one.consumer.queue,
        "expected_sec": None if one.refusal else round(one.expected_sec, 3),
    }
    if isinstance(plan, GpumandError):
        return fields | {"error": plan.dbus_name, "message": plan.message}
    return fields | {"plan": plan}


def quote_of(plan: dict[str, Any] | GpumandError) -> Quote:
    """The quote of a plan; an error is a refusal."""
    if isinstance(plan, GpumandError):
        return Quote("refuse", None, 0.0, plan.message)
    return Quote(
        str(plan.get("verdict", "refuse"))[:32],
        quoted_sec(plan.get("expected_usec")),
        quoted_sec(plan.get("victims_usec")) or 0.0,
        one_line(str(plan.get("message", "")), 512),
    )
