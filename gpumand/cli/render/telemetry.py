"""Utilisation, temperature and power of a device, and the history of its memory, on one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpumand.cli.render.format import clean, mib
from gpumand.cli.render.sparkline import UNKNOWN, sparkline
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import Theme

GRAPH_WIDTH = 30
"""Characters of a graph: two readings in each, of the 60 that gpumand keeps."""

MIN_READINGS = 2
"""A graph of fewer readings shows nothing."""

HOT_DEGREES = 5
"""A device this close to its limit is shown as hot."""


def telemetry_lines(device: Mapping[str, Any], theme: Theme) -> list[Text]:
    """The line of a device; () where nothing of it is known.

    Args:
        device: an entry of GetStatus.
        theme: of the screen.
    """
    parts = [_utilization(device, theme), _temperature(device, theme), _power(device), _memory(device, theme)]
    line = Text()
    for part in filter(None, parts):
        # On a narrow screen the last parts are left out; the memory is in the bar already.
        if line.cell_len + 3 + part.cell_len <= theme.width:
            line += Text("   " if line else "  ") + part
    return [line] if line else []


def consumer_history_line(consumer: Mapping[str, Any], theme: Theme) -> Text:
    """The memory of a consumer over the last readings, against its peak; empty where it has held none."""
    values = [int(value) for value in consumer.get("used_mib_history") or ()]
    highest = max(values, default=0)
    graph = _graph(values, highest, GRAPH_WIDTH, theme)
    if not graph:
        return Text()
    return Text.assemble(f"  memory of {clean(consumer['name'])} ", (graph, "cyan"), f" peak {mib(highest)}")


def _utilization(device: Mapping[str, Any], theme: Theme) -> Text:
    percent = device.get("utilization_percent")
    if percent is None:
        return Text()
    graph = _graph(_history(device, "utilization_percent"), 100, GRAPH_WIDTH // 2, theme)
    line = Text.assemble("busy ", (f"{percent:3d} %", "bold"))
    return line + Text.assemble(" ", (graph, "green")) if graph else line


def _temperature(device: Mapping[str, Any], theme: Theme) -> Text:
    degrees, limit = device.get("temperature_celsius"), device.get("temperature_limit_celsius")
    if degrees is None:
        return Text()
    is_hot = limit is not None and degrees >= limit - HOT_DEGREES
    words = f"{degrees} {'°C' if theme.unicode else 'C'}" + (f" of {limit}" if limit is not None else "")
    return Text(words, "bold red" if is_hot else "")


def _power(device: Mapping[str, Any]) -> Text:
    watts, limit = device.get("power_watts"), device.get("power_limit_watts")
    if watts is None:
        return Text()
    return Text(f"{watts:.0f} W" + (f" of {limit:.0f}" if limit is not None else ""))


def _memory(device: Mapping[str, Any], theme: Theme) -> Text:
    total = int(device.get("total_mib") or 0)
    graph = _graph(_history(device, "used_mib"), total, GRAPH_WIDTH // 2, theme)
    return Text.assemble("memory ", (graph, "cyan")) if graph else Text()


def _graph(values: Sequence[int], highest: int, width: int, theme: Theme) -> str:
    """The graph of a history; "" where it would show nothing."""
    is_worth_it = len(values) >= MIN_READINGS and any(value > 0 for value in values)
    return sparkline(values, highest, width, unicode=theme.unicode) if is_worth_it else ""


def _history(device: Mapping[str, Any], name: str) -> list[int]:
    values = (device.get("history") or {}).get(name, ())
    return [value if isinstance(value, int) else UNKNOWN for value in values]
