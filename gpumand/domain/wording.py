"""Formats sizes, names, devices and VRAM holders for messages."""

from __future__ import annotations

from collections.abc import Sequence

from gpumand.domain import budget, busyness
from gpumand.domain.device import Devices, ProcessUse, Sample
from gpumand.domain.eviction_check import SLACK_MIB
from gpumand.domain.lease_wording import describe_lease_list
from gpumand.domain.name_lists import join_names
from gpumand.domain.reserved_memory import is_whole_device
from gpumand.domain.view import ConsumerState, View

FOOTPRINT_UNKNOWN = (
    "VRAM requirement unknown: no measurement is on record and vram_resident_mib is not set. "
    "Set vram_resident_mib, or set vram_guess_mib until gpumand has measured it"
)

LAST_LINES = "; last lines: "
LINE_SEPARATOR = " | "
"""Both are also in ``gateway/console/files/page.js``, which shows each line on a line of its own."""


def format_mib(mib: int) -> str:
    """Format an amount of memory: ``512 MiB``, ``12.9 GiB``."""
    return f"{mib / 1024:.1f} GiB" if abs(mib) >= 1024 else f"{mib} MiB"


def is_or_are(items: Sequence[object]) -> str:
    """The verb that agrees with the number of items: "is" for one, else "are"."""
    return "is" if len(items) == 1 else "are"


def describe_devices(devices: Devices) -> str:
    """Name devices: ``device 0``, ``devices 0, 1``."""
    return f"device{'' if len(devices) == 1 else 's'} {join_names([str(device) for device in devices])}"


def describe_holders(view: View, device: int, excluding: str = "") -> str:
    """List what holds VRAM on a device: consumers with the reason why they stay, then foreign processes.

    Args:
        view: everything at this moment.
        device: index of the device.
        excluding: a consumer to leave out; "" = none.
    """
    holders = [
        part
        for state in view.consumers_on((device,))
        if state.name != excluding and (part := _describe_holder(view, device, state))
    ]
    foreign = budget.foreign_processes(view.devices[device])
    named = [f"{format_mib(one.used_mib)} by {describe_process(one)}" for one in foreign if one.used_mib]
    parts = [*_last_foreign(view, device), *holders, *named]
    least_mib = budget.UNNAMED_NOISE_MIB if parts else SLACK_MIB
    unnamed_mib = budget.unexplained_mib(view, device)
    if unnamed_mib > least_mib or not parts:
        parts += [f"an unknown amount by {describe_process(one)}" for one in foreign if one.used_mib is None]
    # First, so that a long list does not cut it off.
    unnamed = f"{format_mib(unnamed_mib)} {_unnamed(view.devices[device])}"
    return join_names([unnamed, *parts] if unnamed_mib > least_mib else parts) or "nothing that is known"


def _unnamed(sample: Sample) -> str:
    """What memory is that belongs to no listed process."""
    if sample.counts_host_ram:
        return "of host RAM in use by other programs"
    return "in use by processes that the driver does not name"


def _last_foreign(view: View, device: int) -> list[str]:
    """What other programs held at the last reading of a device that cannot be read now."""
    sample, mib = view.devices[device], budget.last_foreign_mib(view, device)
    if sample.last is None or not mib:
        return []
    return [f"{format_mib(mib)} by other programs at the last reading, {view.now - sample.last.taken_at:.0f} s ago"]


def describe_process(process: ProcessUse) -> str:
    """Name a foreign process by everything known of it: ``firefox (user alice, unit session-2.scope, pid 4711)``."""
    if not process.pid and process.unit:  # the unit as a whole
        return f"processes of {process.unit}"
    known = [
        ("user", process.user or ("" if process.uid is None else str(process.uid))),
        ("container", process.container) if process.container else ("unit", process.unit),
        ("pid", str(process.pid) if process.pid else ""),
    ]
    details = ", ".join(f"{label} {value}" for label, value in known if value)
    return f"{process.name or 'a process'} ({details})" if details else process.name or "a process"


def _describe_holder(view: View, device: int, state: ConsumerState) -> str:
    """Amount, name and state of a consumer that holds VRAM; "" where it holds nothing."""
    held_mib = budget.held_mib(view.devices[device], state)
    if not (held_mib or state.claimed or (held_mib is None and state.residency == "resident")):
        return ""
    size = format_mib(held_mib) if held_mib is not None and not state.claimed else _reserved_size(state, held_mib or 0)
    reasons = [reason for reason, applies in _reasons(view, state) if applies]
    return f"{size} by {state.name}" + (f" ({', '.join(reasons)})" if reasons else "")


def _reserved_size(state: ConsumerState, held_mib: int) -> str:
    if is_whole_device(state):
        return "everything else"
    if not state.footprint_known:
        return f"{format_mib(held_mib)} or more" if held_mib else "an unknown amount"
    return format_mib(max(held_mib, state.footprint_mib))


def _reasons(view: View, state: ConsumerState) -> list[tuple[str, bool]]:
    return [
        (describe_lease_list(view, state) or "leased", state.leases > 0),
        (str(state.residency), state.residency in ("loading", "unloading", "parked")),
        (busyness.describe_work(state), busyness.is_busy(state)),
        ("pinned", state.pinned),
        ("manages its own VRAM", state.spec.vram_managed),
    ]


def with_log_lines(message: str, lines: Sequence[str]) -> str:
    """The reason of a failure and the last lines of the log, in one line."""
    return message + LAST_LINES + LINE_SEPARATOR.join(lines) if lines else message
