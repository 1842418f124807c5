"""Output of ``hold``: what is reserved, what was evicted for it, what is free, and what stays on the GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpumand.cli.render.format import clean, duration, gpus, join_names, mib
from gpumand.cli.render.reservation import lease_label
from gpumand.cli.render.status import foreign_lines
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import Theme
from gpumand.cli.render.wrap import wrapped

Entry = Mapping[str, Any]


def hold_lines(lease: str, grant: Entry, status: Entry, seconds: float | None, theme: Theme) -> list[Text]:
    """The lines after the grant.

    Args:
        lease: id of the lease.
        grant: the answer of Acquire.
        status: the answer of GetStatus after the grant.
        seconds: how long the reservation is held; None = until Ctrl-C.
        theme: of the screen.
    """
    place = gpus(grant["device"]) if grant.get("device") else "an unknown GPU"
    lines = wrapped(f"reserved: {lease_label(grant)} on {place} (lease {clean(lease)})", theme, first="", rest="  ")
    evicted = join_names([clean(name) for name in grant.get("evicted") or ()])
    lines += wrapped(f"evicted: {evicted or 'nothing'}", theme, first="", rest="  ")
    for device in _devices(grant, status):
        lines += _free(device, theme) + _stays(device, status, theme) + foreign_lines(device, theme)
    end = f"for {duration(seconds)}, or until Ctrl-C" if seconds is not None else "until Ctrl-C"
    return [*lines, Text(f"held {end}")]


def _devices(grant: Entry, status: Entry) -> list[Entry]:
    reserved = str(grant.get("device") or "").split(",")
    return [device for device in status["devices"] if str(device["index"]) in reserved]


def _free(device: Entry, theme: Theme) -> list[Text]:
    """The free memory of the device, which includes what is reserved and not used yet."""
    free, total = device.get("free_mib"), device.get("total_mib")
    return wrapped(f"GPU {device['index']}: {mib(free)} of {mib(total)} free", theme, first="", rest="  ")


def _stays(device: Entry, status: Entry, theme: Theme) -> list[Text]:
    """The consumers that still hold memory on the device."""
    holding = [
        f"{clean(one['name'])} ({mib(one['used_mib'])})"
        for one in status["consumers"]
        if one.get("used_mib") and str(device["index"]) in str(one.get("device")).split(",")
    ]
    return wrapped(f"not evicted: {join_names(holding)}", theme) if holding else []
