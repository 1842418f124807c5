"""Graphs of memory, utilisation, power and temperature of devices, and of the memory of consumers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpumand.cli.render.format import NOTHING, clean, mib
from gpumand.cli.render.graph import UNKNOWN, graph
from gpumand.cli.render.status import memory_use
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import Theme

Entry = Mapping[str, Any]

MIN_WIDTH = 24
"""Characters of a graph below which fewer graphs are shown."""

MIN_LINES, GOOD_LINES, TALL_LINES = 3, 7, 15
"""Lines of a graph with its title: the least; those from which on there are more rows of graphs if there are more
graphs; and those from which on a row is divided although it has room for all of them."""

GAP = 2
HOT_DEGREES = 5
"""A device this close to its limit is shown as hot."""

BOILING_CELSIUS = 100
"""The top of the graph of temperatures, where no limit is known."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph.

    Attributes:
        title: what it shows, with the current value.
        values: the readings, the newest last.
        highest: the value of full height.
        style: the color of the graph.
    """

    title: str
    values: Sequence[int]
    highest: int
    style: str


def device_panels(device: Entry, theme: Theme, *, named: bool) -> list[Panel]:
    """The graphs of a device: memory, utilisation, power and temperature. One without any reading is left out.

    Args:
        device: an entry of GetStatus.
        theme: of the screen.
        named: whether the titles name the device.
    """
    prefix = f"GPU {device['index']} " if named else ""
    degree = "°C" if theme.unicode else "C"
    panels = (
        _memory(device, prefix),
        _busy(device, prefix),
        _power(device, prefix),
        _temperature(device, prefix, degree),
    )
    return [one for one in panels if any(value != UNKNOWN for value in one.values)]


def consumer_panels(consumers: Sequence[Entry], selected: str) -> list[Panel]:
    """The graphs of the memory of consumers that held some: the selected one first, then the largest."""
    shown = [one for one in consumers if one.get("used_mib_history")]
    shown.sort(key=lambda one: (one["name"] != selected, -int(one.get("used_mib") or 0)))
    return [_consumer(one) for one in shown]


def graph_lines(panels: Sequence[Panel], theme: Theme, height: int) -> list[Text]:
    """The graphs in rows that fill the width and the height; as many graphs as there is room for."""
    if not panels or height < MIN_LINES:
        return []
    fit = max(1, (theme.width + GAP) // (MIN_WIDTH + GAP))
    needed = min(-(-len(panels) // fit), max(1, height // GOOD_LINES))
    # Where there are more lines than graphs of a good height fill, wider graphs in more rows are easier to read.
    rows = max(needed, min(len(panels), height // TALL_LINES))
    columns = min(fit, -(-len(panels) // rows))
    lines: list[Text] = []
    for row in range(rows):
        row_height = (height - len(lines)) // (rows - row)
        lines += _row_of(panels[row * columns : (row + 1) * columns], theme, row_height)
    return lines


def _row_of(panels: Sequence[Panel], theme: Theme, height: int) -> list[Text]:
    """Graphs side by side; none where no graph is left for the row."""
    if not panels:
        return []
    spare = theme.width - GAP * (len(panels) - 1)
    widths = [spare // len(panels) + (place < spare % len(panels)) for place in range(len(panels))]
    columns = [_panel_lines(one, width, theme, height) for one, width in zip(panels, widths, strict=True)]
    return [_joined(pieces) for pieces in zip(*columns, strict=True)]


def _panel_lines(panel: Panel, width: int, theme: Theme, height: int) -> list[Text]:
    title = Text(panel.title, style="bold")
    title.truncate(width)
    rule = "─" if theme.unicode else "-"
    if title.cell_len + 1 < width:
        title = title + " " + Text(rule * (width - title.cell_len - 1), style="bright_black")
    lines = graph(panel.values, panel.highest, width, height - 1, unicode=theme.unicode)
    return [title, *(Text(line, style=panel.style) for line in lines)]


def _joined(pieces: Sequence[Text]) -> Text:
    line = Text()
    for place, piece in enumerate(pieces):
        line = line + " " * GAP + piece if place else line + piece
    return line


def _memory(device: Entry, prefix: str) -> Panel:
    total = int(device.get("total_mib") or 0)
    return Panel(f"{prefix}memory {used_of_total(device)}", _history(device, "used_mib"), total, "cyan")


def _busy(device: Entry, prefix: str) -> Panel:
    percent = device.get("utilization_percent")
    shown = NOTHING if percent is None else f"{percent} %"
    return Panel(f"{prefix}busy {shown}", _history(device, "utilization_percent"), 100, "green")


def _power(device: Entry, prefix: str) -> Panel:
    watts, limit = device.get("power_watts"), device.get("power_limit_watts")
    values = _history(device, "power_watts")
    shown = NOTHING if watts is None else f"{watts:.0f}" + (f" of {limit:.0f} W" if limit else " W")
    return Panel(f"{prefix}power {shown}", values, int(limit or max(values, default=0)), "yellow")


def _temperature(device: Entry, prefix: str, degree: str) -> Panel:
    degrees, limit = device.get("temperature_celsius"), device.get("temperature_limit_celsius")
    shown = NOTHING if degrees is None else f"{degrees} {degree}" + (f", limit {limit}" if limit else "")
    is_hot = bool(degrees is not None and limit and degrees >= limit - HOT_DEGREES)
    values = _history(device, "temperature_celsius")
    return Panel(f"{prefix}temperature {shown}", values, int(limit or BOILING_CELSIUS), "red" if is_hot else "magenta")


def _consumer(consumer: Entry) -> Panel:
    values = [int(value) for value in consumer.get("used_mib_history") or ()]
    highest = max(values, default=0)
    title = f"{clean(consumer['name'])} {mib(consumer.get('used_mib'))}, peak {mib(max(0, highest))}"
    return Panel(title, values, highest, "blue")


def _history(device: Entry, name: str) -> list[int]:
    values = (device.get("history") or {}).get(name, ())
    return [value if isinstance(value, int) else UNKNOWN for value in values]


def used_of_total(device: Entry) -> str:
    """The memory in use of all memory, in one unit: ``16.3 of 24.0 GiB``."""
    used, total = device.get("used_mib"), device.get("total_mib")
    if used is None or total is None:
        return memory_use(device)
    amount = mib(total)
    return f"{used / 1024:.1f} of {amount}" if amount.endswith("GiB") else f"{used} of {amount}"
