"""A device's memory as one bar, divided among the processes that hold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gpumand.cli.render.format import clean, mib
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import FOREIGN_STYLE, RESERVATION_STYLE, Theme, consumer_style

ESTIMATED_RESIDENCIES = ("resident", "unloading")
"""Residencies whose memory is estimated from the footprint if there is no reading.

"loading" is not one of them: the part of its footprint that is not visible yet is in the device's reserved memory.
"""


UNNAMED, UNNAMED_STYLE = "unnamed", "magenta"
OTHER_RAM = "host RAM of other programs"

MAX_WIDTH = 100
"""Characters of a bar in output that is not a full screen."""

NOISE_MIB = 64
"""Less unnamed memory than this is not drawn: amounts are rounded."""


@dataclass(frozen=True, slots=True)
class Share:
    """One holder's part of the bar.

    Attributes:
        name: the holder: a consumer, a foreign process, or a group of processes.
        mib: its memory in MiB.
        letter: the character that fills its part on a screen without colors.
        style: the color of its part, as rich names styles.
        estimated: whether ``mib`` is the footprint because there is no reading.
        shade: the character that fills its part on a screen with colors and block characters.
    """

    name: str
    mib: int
    letter: str
    style: str
    estimated: bool = False
    shade: str = "█"


def _held_on(consumer: Mapping[str, Any], device: str) -> tuple[int, bool]:
    """MiB of a consumer on a device, and whether that is a guess; by the driver, or else by where it was placed."""
    if shown := consumer.get("used_by_device"):
        return int(shown.get(device, 0)), False
    devices = str(consumer.get("device")).split(",")
    return _held_mib(consumer, len(devices)) if device in devices else (0, False)


def shares(
    device: Mapping[str, Any],
    consumers: Sequence[Mapping[str, Any]],
    max_foreign: int = 0,
    reservations: Sequence[Mapping[str, Any]] = (),
) -> list[Share]:
    """The parts of a device's bar: consumers in the order of the configuration, foreign and then unnamed memory.

    Unnamed memory is in use, but belongs to no process that the driver names. What is drawn for a consumer by its
    footprint may be part of it, or of foreign memory, and is not drawn twice.

    Args:
        device, consumers: entries of GetStatus.
        reservations: leases of GetStatus; those without a consumer get a part each.
        max_foreign: number of foreign processes that get a part of their own, largest first; the rest share one part.
    """
    names = [clean(consumer["name"]) for consumer in consumers]
    found: list[Share] = []
    for index, consumer in enumerate(consumers):
        held, estimated = _held_on(consumer, str(device["index"]))
        if held:
            name = clean(consumer["name"])
            found.append(Share(name, held, chr(ord("a") + index % 26), consumer_style(names, name), estimated))
    found += _reserved_shares(device, reservations)
    if device.get("unnamed_mib") is None and device.get("foreign_mib") is None:  # nothing is known of the processes
        rest = _undrawn_mib(device, found)
        return [*found, Share("unattributed", rest, "?", FOREIGN_STYLE)] if rest else found
    foreign_shares = _foreign_shares(device, max_foreign)
    rest = max(0, _foreign_mib(device) - sum(share.mib for share in foreign_shares))
    found = _within_use(device, found, foreign_shares)
    found += foreign_shares
    if any(share.estimated for share in found):  # the driver does not say which processes are the consumer's
        rest = min(rest, _undrawn_mib(device, found))
    found += [Share("other foreign" if foreign_shares else "foreign", rest, "#", FOREIGN_STYLE)] if rest else []
    unnamed = min(int(device.get("unnamed_mib") or 0), _undrawn_mib(device, found))
    name = OTHER_RAM if counts_host_ram(device) else UNNAMED
    return [*found, Share(name, unnamed, "?", UNNAMED_STYLE, shade="▚")] if unnamed > NOISE_MIB else found


def _within_use(device: Mapping[str, Any], parts: Sequence[Share], others: Sequence[Share]) -> list[Share]:
    """The parts, without those of estimated ones for which no memory in use is left beside the others."""
    if device.get("used_mib") is None:
        return list(parts)
    left = int(device["used_mib"]) - sum(share.mib for share in (*parts, *others) if not share.estimated)
    found = []
    for share in parts:
        size = share.mib if not share.estimated else min(share.mib, max(0, left))
        left -= size if share.estimated else 0
        found += [replace(share, mib=size)] if size else []
    return found


def counts_host_ram(device: Mapping[str, Any]) -> bool:
    """Whether the use of a device contains host RAM of all programs: where NVIDIA's driver reports no memory."""
    return device.get("pool") == "unified" and device.get("source") == "nvml"


def _undrawn_mib(device: Mapping[str, Any], parts: Sequence[Share]) -> int:
    """MiB in use that no part stands for."""
    return max(0, int(device.get("used_mib") or 0) - sum(share.mib for share in parts))


def _foreign_mib(device: Mapping[str, Any]) -> int:
    """MiB of foreign processes: all of them, or at least the listed ones whose use is known."""
    known = sum(int(one.get("used_mib") or 0) for one in device.get("foreign") or ())
    return known if device.get("foreign_mib") is None else int(device["foreign_mib"])


def _reserved_shares(device: Mapping[str, Any], leases: Sequence[Mapping[str, Any]]) -> list[Share]:
    """What the programs of reservations hold on the device, up to what they reserved."""
    found = []
    for lease in leases:
        devices = str(lease.get("device")).split(",")
        if lease.get("consumer") or str(device["index"]) not in devices or not lease.get("used_mib"):
            continue
        held = int(lease["used_mib"]) // len(devices)
        held = held if lease.get("all") else min(held, int(lease.get("vram_mib") or held))
        name = clean(lease.get("program") or "reservation")
        found.append(Share(f"{name} (reservation)", held, "R", RESERVATION_STYLE))
    return found


def _foreign_shares(device: Mapping[str, Any], most: int) -> list[Share]:
    """The largest foreign processes, marked by digits; adjacent parts differ in color and shade."""
    known = [one for one in device.get("foreign") or () if one.get("used_mib")][: min(most, 9)]
    return [
        Share(
            clean(one.get("name") or (f"pid {one['pid']}" if one.get("pid") else one.get("unit") or "?")),
            int(one["used_mib"]),
            str(place + 1),
            "white" if place % 2 else FOREIGN_STYLE,
            shade="▓" if place % 2 else "▒",
        )
        for place, one in enumerate(known)
    ]


def _held_mib(consumer: Mapping[str, Any], devices: int) -> tuple[int, bool]:
    """MiB that a consumer holds on each of its devices, and whether this is an estimate from its footprint."""
    if consumer.get("used_mib") is not None:
        return int(consumer["used_mib"]) // devices, False
    if consumer.get("residency") in ESTIMATED_RESIDENCIES:
        return int(consumer.get("vram_resident_mib") or 0), True
    return 0, False


def cells(amounts: Sequence[int], total: int, width: int) -> list[int]:
    """Divide a bar among amounts by the largest remainder method.

    Every amount above 0 gets at least one cell, and the sum never exceeds the width.

    Args:
        amounts: MiB of each part.
        total: MiB that the whole bar stands for.
        width: cells of the bar.

    Returns:
        Cells of each part.
    """
    total = max(total, sum(amounts), 1)
    exact = [amount * width / total for amount in amounts]
    given = [max(1, int(part)) if amount else 0 for amount, part in zip(amounts, exact, strict=True)]
    target = min(width, round(sum(exact)))
    for index in sorted(range(len(exact)), key=lambda one: int(exact[one]) - exact[one]):
        if sum(given) < target and amounts[index] and exact[index] >= 1:
            given[index] += 1
    # The minimum of one cell for small parts can exceed the width: the largest parts give cells back.
    while sum(given) > width:
        given[given.index(max(given))] -= 1
    return given


def bar(device: Mapping[str, Any], parts: Sequence[Share], theme: Theme, width: int = 0) -> Text:
    """The bar, for example ``[aaaaaaaabb##::......]``: parts by letter or color, ``:`` reserved, ``.`` free.

    Args:
        device: an entry of GetStatus.
        parts: see ``shares``.
        theme: of the screen.
        width: characters of the line; 0 = as wide as the screen, at most ``MAX_WIDTH``.
    """
    inner = (width or min(theme.width, MAX_WIDTH)) - 4
    reserved = int(device.get("reserved_mib") or 0)
    *held, reserved_cells = cells([*(part.mib for part in parts), reserved], int(device["total_mib"]), inner)
    line = Text("  [")
    for part, part_cells in zip(parts, held, strict=True):
        line.append(_fill_character(part, theme) * part_cells, style=part.style)
    line.append((":" if not theme.unicode else "░") * reserved_cells, style="yellow")
    line.append(_rest_mark(device) * (inner - sum(held) - reserved_cells), style="bright_black")
    line.append("]")
    return line


def _rest_mark(device: Mapping[str, Any]) -> str:
    """The character of memory that no part stands for: free, or unknown while the device cannot be read."""
    return "?" if device.get("error") and device.get("free_mib") is None and not device.get("unchecked") else "."


def _fill_character(part: Share, theme: Theme) -> str:
    return part.shade if theme.has_shades else part.letter


def legend(device: Mapping[str, Any], parts: Sequence[Share], theme: Theme) -> list[Text]:
    """The names and sizes of the bar's parts, on as many lines as the width requires."""
    reserved = int(device.get("reserved_mib") or 0)
    entries = [
        Text.assemble(
            (_legend_mark(part, theme), part.style), f" {part.name} {'~' if part.estimated else ''}{mib(part.mib)}"
        )
        for part in parts
    ]
    if reserved:
        entries.append(Text.assemble(("░" if theme.unicode else ":", "yellow"), f" reserved {mib(reserved)}"))
    if device.get("free_mib") is not None:
        entries.append(Text.assemble((".", "bright_black"), f" free {mib(max(0, int(device['free_mib']) - reserved))}"))
    elif _rest_mark(device) == "?":
        entries.append(Text.assemble(("?", "bright_black"), " unknown"))
    return _flow(entries, theme.width)


def _legend_mark(part: Share, theme: Theme) -> str:
    if not theme.has_shades:
        return part.letter
    return "■" if part.shade == "█" else part.shade


def _flow(entries: Sequence[Text], width: int) -> list[Text]:
    """Arrange the entries in lines of the given width; lines break only between entries."""
    lines = [Text("  ")]
    for entry in entries:
        used = lines[-1].cell_len
        if used > 2 and used + 3 + entry.cell_len > width:
            lines.append(Text("  "))
        elif used > 2:
            lines[-1].append("   ")
        lines[-1].append_text(entry)
    return lines
