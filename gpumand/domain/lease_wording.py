"""Describes the leases that a request waits for: their owners, their ends, and the commands that release them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpumand.domain.lease import Lease, LeaseLifetime, Owner
from gpumand.domain.name_lists import join_names
from gpumand.domain.short_ids import short_id
from gpumand.domain.view import ConsumerState, View

MAX_LEASES = 3
"""A message describes at most this many leases; a longer list is cut off with "and N more leases"."""

MAX_REASON = 40
"""Characters of the reason of a lease in a message."""

_NOT_PLAIN = str.maketrans(dict.fromkeys("'\"(),;:`", "_"))


def describe_leased(view: View, states: Sequence[ConsumerState]) -> str:
    """Name consumers, each with its leases: ``llm (lease 38a640, user alice, python3, 'a film', ends in 14 min)``."""
    parts, left, omitted = [], MAX_LEASES, 0
    for state in states:
        leases = view.consumer_leases.get(state.name, ())
        described = [describe_lease(view, lease) for lease in leases[:left]]
        left, omitted = left - len(described), omitted + len(leases) - len(described)
        parts.append(state.name + (f" ({'; '.join(described)})" if described else ""))
    return join_names(parts) + (f" and {omitted} more lease{'' if omitted == 1 else 's'}" if omitted else "")


def describe_lease_list(view: View, state: ConsumerState) -> str:
    """The leases on one consumer, without its name."""
    leases = view.consumer_leases.get(state.name, ())
    more = len(leases) - MAX_LEASES
    rest = f" and {more} more lease{'' if more == 1 else 's'}" if more > 0 else ""
    return "; ".join(describe_lease(view, lease) for lease in leases[:MAX_LEASES]) + rest


def describe_lease(view: View, lease: Lease) -> str:
    """One lease: short id, owner, reason and end. A reservation is named by its id already."""
    lease_id = "" if lease.reservation is not None else f"lease {_short(view, lease)}"
    parts = (lease_id, *_owner(lease), _reason(lease.reason), _end(lease, view.realtime_usec))
    return ", ".join(part for part in parts if part)


def how_to_release(view: View, states: Sequence[ConsumerState]) -> str:
    """The commands that end the leases on these consumers, as a clause; "" where there are none."""
    leases = [lease for state in states for lease in view.consumer_leases.get(state.name, ())]
    commands = [f"gpumanctl release {_short(view, lease)}" for lease in leases[:MAX_LEASES]]
    if len(leases) > MAX_LEASES:
        commands.append("the others are listed by: gpumanctl status")
    return f"release {'it' if len(leases) == 1 else 'them'}: {'; '.join(commands)}" if commands else ""


def _short(view: View, lease: Lease) -> str:
    return short_id(lease.id, (one.id for leases in view.consumer_leases.values() for one in leases))


def _owner(lease: Lease) -> Iterator[str]:
    owner = lease.owner
    yield f"user {_plain(owner.user)}" if owner.user else f"uid {owner.uid}"
    yield _plain(owner.program or (lease.reservation.holder.program if lease.reservation else "") or _process(owner))


def _process(owner: Owner) -> str:
    return owner.unit or (f"pid {owner.pid}" if owner.pid else "")


def _plain(name: str) -> str:
    # Processes choose their names themselves. None may look like the end of the description.
    return name.translate(_NOT_PLAIN)


def _reason(reason: str) -> str:
    short = reason if len(reason) <= MAX_REASON else f"{reason[: MAX_REASON - 1]}…"
    return "'" + short.replace("'", "\u2019") + "'" if reason else ""


def _end(lease: Lease, realtime_usec: int) -> str:
    if lease.expires_usec:
        return f"ends in {_duration(max(0.0, (lease.expires_usec - realtime_usec) / 1e6))}"
    if lease.lifetime is LeaseLifetime.UNIT:
        return f"until {lease.owner.unit} stops"
    return "until its client disconnects"


def _duration(seconds: float) -> str:
    """A duration in its largest fitting unit: ``40 s``, ``14 min``, ``3 h``, ``2 d``."""
    for unit, unit_sec in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * unit_sec or (unit == "min" and seconds >= unit_sec):
            return f"{seconds / unit_sec:.0f} {unit}"
    return f"{seconds:.0f} s"
