"""Figures and lists for people."""

from __future__ import annotations

from collections.abc import Sequence

from gpumand.domain import budget, busyness
from gpumand.domain.device import Devices, ProcessUse
from gpumand.domain.view import ConsumerState, View

NO_FOOTPRINT = (
    "how much VRAM it needs is not known: nothing that was measured of it is there, and vram_resident_mib does not say "
    "it (vram_guess_mib says what to take it for, until it is measured)"
)

MAX_NAMED = 6
"""More names than this in one line help nobody."""


def gib(mib: int) -> str:
    """MiB as people say it: ``512 MiB``, ``12.9 GiB``."""
    return f"{mib / 1024:.1f} GiB" if abs(mib) >= 1024 else f"{mib} MiB"


def listing(names: Sequence[str]) -> str:
    """Names with commas, cut off where there are too many."""
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


def on_devices(devices: Devices) -> str:
    """``device 0``, ``devices 0, 1``."""
    return f"device{'' if len(devices) == 1 else 's'} {listing([str(one) for one in devices])}"


def holders_line(view: View, device: int, besides: str = "") -> str:
    """Who holds what on a device: consumers with the reason why they stay, then foreign processes by name."""
    parts = [part for state in view.on((device,)) if state.name != besides and (part := _holder(view, device, state))]
    parts += [
        f"{gib(process.used_mib)} by {foreign_label(process)}"
        for process in budget.foreign_processes(view.devices[device])
        if process.used_mib
    ]
    return listing(parts) or "nothing that is known"


def foreign_label(process: ProcessUse) -> str:
    """Who holds memory and is no consumer: ``firefox (user alice, unit session-2.scope, pid 4711)``."""
    known = [
        ("user", process.user or ("" if process.uid is None else str(process.uid))),
        ("unit", process.unit),
        ("pid", str(process.pid)),
    ]
    details = ", ".join(f"{what} {which}" for what, which in known if which)
    return f"{process.name or 'a process'} ({details})"


def _holder(view: View, device: int, state: ConsumerState) -> str:
    held_mib = budget.held_mib(view.devices[device], state)
    if not (held_mib or state.claimed or (held_mib is None and state.residency == "resident")):
        return ""
    size = gib(held_mib) if held_mib is not None and not state.claimed else _spoken_for(state, held_mib or 0)
    reasons = [word for word, so in _reasons(state) if so]
    return f"{size} by {state.name}" + (f" ({', '.join(reasons)})" if reasons else "")


def _spoken_for(state: ConsumerState, held_mib: int) -> str:
    if not state.footprint_known:
        return f"{gib(held_mib)} or more" if held_mib else "an unknown amount"
    return gib(max(held_mib, state.footprint_mib))


def _reasons(state: ConsumerState) -> list[tuple[str, bool]]:
    return [
        ("leased", state.leases > 0),
        (str(state.residency), state.residency in ("loading", "unloading", "parked")),
        (busyness.in_words(state), busyness.is_busy(state)),
        ("pinned", state.pinned),
        ("manages its own VRAM", state.spec.vram_managed),
    ]
