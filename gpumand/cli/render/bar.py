"""A device's memory as one bar, split by who holds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpumand.cli.render.format import clean, mib
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import FOREIGN_STYLE, Theme, consumer_style

HOLDING = ("resident", "unloading")
"""What a consumer holds that is loading is in the device's reserved figure, as far as it does not show yet."""


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the bar.

    Attributes:
        name: who holds it.
        mib: how much.
        letter: what marks it where there are no colors.
        style: what marks it where there are.
        estimated: it is the footprint, for want of a measured figure.
        shade: what it is drawn with where there are colors and block characters.
    """

    name: str
    mib: int
    letter: str
    style: str
    estimated: bool = False
    shade: str = "█"


def shares(device: Mapping[str, Any], consumers: Sequence[Mapping[str, Any]], most_foreign: int = 0) -> list[Share]:
    """Who holds what on this device, in the order of the configuration, then foreign or unattributed memory.

    Args:
        device, consumers: as GetStatus tells of them.
        most_foreign: of foreign processes so many are shares of their own, the largest; the others are one together.
    """
    names = [clean(consumer["name"]) for consumer in consumers]
    found: list[Share] = []
    for index, consumer in enumerate(consumers):
        devices = str(consumer.get("device")).split(",")
        if str(device["index"]) not in devices:
            continue
        held, estimated = _held(consumer, len(devices))
        if held:
            name = clean(consumer["name"])
            found.append(Share(name, held, chr(ord("a") + index % 26), consumer_style(names, name), estimated))
    rest = device.get("foreign_mib")
    if rest is None and device.get("used_mib") is not None:
        rest = max(0, int(device["used_mib"]) - sum(share.mib for share in found))
        return [*found, Share("unattributed", rest, "?", FOREIGN_STYLE)] if rest else found
    named = _strangers(device, most_foreign)
    rest = max(0, int(rest or 0) - sum(share.mib for share in named))
    found += named
    return [*found, Share("other foreign" if named else "foreign", rest, "#", FOREIGN_STYLE)] if rest else found


def _strangers(device: Mapping[str, Any], most: int) -> list[Share]:
    """The largest foreign processes, marked by digits; neighbours look different."""
    known = [one for one in device.get("foreign") or () if one.get("used_mib")][: min(most, 9)]
    return [
        Share(
            clean(one.get("name") or f"pid {one.get('pid', '?')}"),
            int(one["used_mib"]),
            str(place + 1),
            "white" if place % 2 else FOREIGN_STYLE,
            shade="▓" if place % 2 else "▒",
        )
        for place, one in enumerate(known)
    ]


def _held(consumer: Mapping[str, Any], devices: int) -> tuple[int, bool]:
    """MiB it holds on each of its devices, and whether that is only its footprint."""
    if consumer.get("used_mib") is not None:
        return int(consumer["used_mib"]) // devices, False
    if consumer.get("residency") in HOLDING:
        return int(consumer.get("vram_resident_mib") or 0), True
    return 0, False


def cells(amounts: Sequence[int], total: int, width: int) -> list[int]:
    """How many cells each amount gets of a bar of ``width`` for ``total``.

    Largest remainders; what is there at all gets a cell, and the sum never exceeds the width.
    """
    total = max(total, sum(amounts), 1)
    exact = [amount * width / total for amount in amounts]
    given = [max(1, int(part)) if amount else 0 for amount, part in zip(amounts, exact, strict=True)]
    target = min(width, round(sum(exact)))
    for index in sorted(range(len(exact)), key=lambda one: int(exact[one]) - exact[one]):
        if sum(given) < target and amounts[index] and exact[index] >= 1:
            given[index] += 1
    while sum(given) > width:
        given[given.index(max(given))] -= 1
    return given


def bar(device: Mapping[str, Any], parts: Sequence[Share], look: Theme) -> Text:
    """``[aaaaaaaabb##::......]``: held by letter or color, reserved as ``:``, free as ``.``."""
    inner = min(look.width, 100) - 4
    reserved = int(device.get("reserved_mib") or 0)
    *held, promised = cells([*(part.mib for part in parts), reserved], int(device["total_mib"]), inner)
    line = Text("  [")
    for part, width in zip(parts, held, strict=True):
        line.append(_ink(part, look) * width, style=part.style)
    line.append((":" if not look.unicode else "░") * promised, style="yellow")
    line.append("." * (inner - sum(held) - promised), style="bright_black")
    line.append("]")
    return line


def _ink(part: Share, look: Theme) -> str:
    return part.shade if look.color and look.unicode else part.letter


def key(device: Mapping[str, Any], parts: Sequence[Share], look: Theme) -> list[Text]:
    """What the parts of the bar are, as many lines as the width asks for."""
    reserved = int(device.get("reserved_mib") or 0)
    entries = [
        Text.assemble((_mark(part, look), part.style), f" {part.name} {'~' if part.estimated else ''}{mib(part.mib)}")
        for part in parts
    ]
    if reserved:
        entries.append(Text.assemble(("░" if look.unicode else ":", "yellow"), f" reserved {mib(reserved)}"))
    if device.get("free_mib") is not None:
        entries.append(Text.assemble((".", "bright_black"), f" free {mib(max(0, int(device['free_mib']) - reserved))}"))
    return _flow(entries, look.width)


def _mark(part: Share, look: Theme) -> str:
    if not (look.color and look.unicode):
        return part.letter
    return "■" if part.shade == "█" else part.shade


def _flow(entries: Sequence[Text], width: int) -> list[Text]:
    """The entries one after the other, broken between them."""
    lines = [Text("  ")]
    for entry in entries:
        used = lines[-1].cell_len
        if used > 2 and used + 3 + entry.cell_len > width:
            lines.append(Text("  "))
        elif used > 2:
            lines[-1].append("   ")
        lines[-1].append_text(entry)
    return lines
