"""The device as a picture: one bar for each consumer, all on the same scale. Pure: a snapshot in, lines out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from gpumand.cli.render.format import clean, mib
from gpumand.cli.render.theme import RESIDENCY_STYLES, Theme, consumer_style

Entry = Mapping[str, Any]

FIGURE_WIDTH = 9
STATE_WIDTH = 17


def picture(status: Entry, look: Theme) -> list[Text]:
    """The first device: a title, a bar for each consumer on it, for what is promised, and for what is left."""
    device = status["devices"][0]
    names = [clean(consumer["name"]) for consumer in status["consumers"]]
    width = max(len(name) for name in [*names, "reserved"])
    room = max(20, min(look.width, 100) - width - STATE_WIDTH - FIGURE_WIDTH - 5)
    total = int(device.get("total_mib") or 0)
    lines = [_title(device)]
    for consumer in status["consumers"]:
        name, held = clean(consumer["name"]), int(consumer.get("used_mib") or 0)
        ink = Text(_ink("█", "#", look) * _cells(held, total, room), style=consumer_style(names, name))
        lines.append(_row(name, _state(consumer), ink, mib(held), width, room))
    reserved = int(device.get("reserved_mib") or 0)
    rest = max(0, int(device.get("free_mib") or 0) - reserved)
    for word, ink_of, amount in (("reserved", ("░", ":"), reserved), ("free", ("·", "."), rest)):
        ink = Text(_ink(*ink_of, look) * _cells(amount, total, room), style="bright_black")
        lines.append(_row(word, Text(), ink, mib(amount), width, room))
    return lines


def _title(device: Entry) -> Text:
    used, total = device.get("used_mib"), device.get("total_mib")
    return Text.assemble(
        " ", (f"GPU {device['index']}", "bold"), f"  {clean(device['name'])}  {mib(used)} of {mib(total)} used"
    )


def _state(consumer: Entry) -> Text:
    residency = clean(consumer["residency"])
    leased = ", leased" if consumer["leases"] else ""
    return Text(residency, style=RESIDENCY_STYLES.get(residency, "")) + Text(leased, style="bold")


def _row(name: str, state: Text, ink: Text, figure: str, width: int, room: int) -> Text:
    line = Text.assemble(" ", f"{name:<{width}} ", no_wrap=True)
    line.append_text(state).append(" " * (STATE_WIDTH - state.cell_len))
    line.append_text(ink).append(" " * (room - ink.cell_len))
    return line.append(f" {figure:>{FIGURE_WIDTH}}")


def _ink(block: str, plain: str, look: Theme) -> str:
    return block if look.unicode else plain


def _cells(amount: int, total: int, room: int) -> int:
    """Cells of a bar; what is there at all gets one."""
    if not amount or not total:
        return 0
    return min(room, max(1, round(amount * room / total)))
