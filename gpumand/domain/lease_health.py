"""Whether the consumer of a lease is there, judged by the changes of its residency."""

from __future__ import annotations

from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState

_GONE = {
    Residency.UNLOADED: "has lost its model or its process",
    Residency.PARKED: "is asleep, with its weights in host RAM",
    Residency.FAILED: "failed to load",
}


def reason_for_degraded(before: Residency, state: ConsumerState) -> str | None:
    """Why leases on a consumer are degraded after a change of its residency, in one line.

    Args:
        before: its former residency.
        state: the consumer after the change.

    Returns:
        "" = it is there; None = the change says nothing: the residency is unknown, or a load is in progress, of which
        only the start after a loss of the process is a loss itself.
    """
    if state.residency is Residency.RESIDENT:
        return ""
    if state.residency is Residency.LOADING:
        return f"{state.name} was restarted and is loading again" if before is Residency.RESIDENT else None
    what = _GONE.get(state.residency)
    if what is None:
        return None
    error = state.error.removeprefix(f"{state.name}: ")  # the error of a failed load names its consumer already
    return f"{state.name} {what}" + (f": {error}" if error else "")
