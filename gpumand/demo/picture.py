"""Draws the first device as bars: one for each consumer, all on the same scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from gpumand.cli.render.format import clean, mib
from gpumand.cli.render.residency import shown_state
from gpumand.cli.render.theme import RESIDENCY_STYLES, Theme, consumer_style

Entry = Mapping[str, Any]

AMOUNT_WIDTH = 9
STATE_WIDTH = 17


def picture(status: Entry, theme: Theme) -> list[Text]:
    """A title and one bar for each consumer, for reserved and for free memory.

    Args:
        status: the answer of GetStatus.
        theme: of the screen.
    """
    device = status["devices"][0]
    names = [clean(consumer["name"]) for consumer in status["consumers"]]
    width = max(len(name) for name in [*names, "reserved"])
    room = max(20, min(theme.width, 100) - width - STATE_WIDTH - AMOUNT_WIDTH - 5)
    total = int(device.get("total_mib") or 0)
    lines = [_title(device)]
    for consumer in status["consumers"]:
        name, held = clean(consumer["name"]), int(consumer.get("used_mib") or 0)
        bar = Text(_fill_character("█", "#", theme) * _cells(held, total, room), style=consumer_style(names, name))
        lines.append(_row(name, _state(consumer), bar, mib(held), width, room))
    reserved = int(device.get("reserved_mib") or 0)
    rest = max(0, int(device.get("free_mib") or 0) - reserved)
    for word, characters, amount in (("reserved", ("░", ":"), reserved), ("free", ("·", "."), rest)):
        bar = Text(_fill_character(*characters, theme) * _cells(amount, total, room), style="bright_black")
        lines.append(_row(word, Text(), bar, mib(amount), width, room))
    return lines


def _title(device: Entry) -> Text:
    used, total = device.get("used_mib"), device.get("total_mib")
    return Text.assemble(
        " ", (f"GPU {device['index']}", "bold"), f"  {clean(device['name'])}  {mib(used)} of {mib(total)} used"
    )


def _state(consumer: Entry) -> Text:
    state = shown_state(consumer)
    leased = ", leased" if consumer["leases"] else ""
    return Text(state, style=RESIDENCY_STYLES.get(state, "")) + Text(leased, style="bold")


def _row(name: str, state: Text, bar: Text, amount: str, width: int, room: int) -> Text:
    line = Text.assemble(" ", f"{name:<{width}} ", no_wrap=True)
    line.append_text(state).append(" " * (STATE_WIDTH - state.cell_len))
    line.append_text(bar).append(" " * (room - bar.cell_len))
    return line.append(f" {amount:>{AMOUNT_WIDTH}}")


def _fill_character(block: str, plain: str, theme: Theme) -> str:
    return block if theme.unicode else plain


def _cells(amount: int, total: int, room: int) -> int:
    """Cells of a bar; every amount above 0 gets at least one."""
    if not amount or not total:
        return 0
    return min(room, max(1, round(amount * room / total)))
