"""Which devices a consumer may be on."""

from __future__ import annotations

from collections.abc import Sequence

from gpumand.domain.consumer import Residency
from gpumand.domain.view import ConsumerState, View

SOMEWHERE = frozenset({Residency.RESIDENT, Residency.LOADING, Residency.UNLOADING})


def devices_for(view: View, state: ConsumerState, wanted: int | None) -> Sequence[int]:
    """Devices to be tried: the one asked for; else the one it is on; else the configured one; else all.

    A consumer that is there already stays there, whatever its configuration says by now: it is what was asked for.
    """
    if wanted is not None:
        return [wanted] if wanted in view.devices else []
    if state.residency in SOMEWHERE and state.device is not None and state.device in view.devices:
        return [state.device]
    if state.spec.device and not _is_blind(view):
        return [index for index, one in view.devices.items() if state.spec.device in (str(index), one.uuid)]
    return sorted(view.devices)


def why_none(view: View, state: ConsumerState, wanted: int | None) -> str:
    """Why there is no device to be tried, in one line."""
    errors = "; ".join(sorted({one.error for one in view.devices.values() if one.error}))
    which = f"device {wanted}" if wanted is not None else f"device {state.spec.device}, configured for {state.name},"
    return f"{which} is not there" + (f" ({errors})" if errors else "")


def _is_blind(view: View) -> bool:
    """No source knows any device: the placeholder stands for whichever there may be."""
    return all(not one.uuid for one in view.devices.values())
