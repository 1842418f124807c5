"""The devices at the top of the screen: name and readings, the bar of their memory, and what its parts are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpumand.cli.render.bar import Share, bar, legend, shares
from gpumand.cli.render.format import clean
from gpumand.cli.render.status import device_properties
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import Theme
from gpumand.cli.top.graphs import HOT_DEGREES, used_of_total
from gpumand.cli.top.sections import Row

Entry = Mapping[str, Any]

MAX_FOREIGN = 4
"""Maximum number of foreign processes that get a part of their own in a device's bar."""

MIN_SMALL_BAR = 9
SMALL_BAR = 30
"""The least and the most characters of the bar of a device that gets only one line."""

MIN_TITLE = 12
"""Characters to which the name of such a device is cut at most."""


def device_blocks(rows: Sequence[Row], status: Entry, theme: Theme, room: int) -> list[list[Text]]:
    """The lines of each device, in the most detailed layout in which all devices fit into the room."""
    for layout in (_whole, _with_bar, _one_line):
        blocks = [layout(row.entry, status, theme) for row in rows]
        if sum(map(len, blocks)) <= room:
            break
    return blocks


def _whole(device: Entry, status: Entry, theme: Theme) -> list[Text]:
    lines = _with_bar(device, status, theme)
    return [*lines, *(legend(device, _parts(device, status), theme) if device.get("total_mib") else [])]


def _with_bar(device: Entry, status: Entry, theme: Theme) -> list[Text]:
    lines = _title(device, theme)
    if device.get("error"):
        lines.append(Text(f"  {clean(device['error'])}", style="bold yellow"))
    if device.get("attribution_gap"):
        lines.append(Text(f"  memory of services unknown: {clean(device['attribution_gap'])}", style="yellow"))
    return lines + ([bar(device, _parts(device, status), theme, theme.width)] if device.get("total_mib") else [])


def _parts(device: Entry, status: Entry) -> list[Share]:
    return shares(device, status["consumers"], MAX_FOREIGN, reservations=status["leases"])


def _title(device: Entry, theme: Theme) -> list[Text]:
    """Name, memory and readings: on one line, if need be without the limits, or else on two lines."""
    whole = _title_lines(device, theme, with_limits=True)
    short = whole if len(whole) == 1 else _title_lines(device, theme, with_limits=False)
    return short if len(short) == 1 else whole


def _title_lines(device: Entry, theme: Theme, *, with_limits: bool) -> list[Text]:
    name = clean(device.get("name") or "unnamed device")
    lines = [Text.assemble((f"GPU {device['index']}", "bold"), f"  {name} ({', '.join(device_properties(device))})")]
    for part in (Text(used_of_total(device)), *_readings(device, theme, with_limits=with_limits)):
        if lines[-1].cell_len + 2 + part.cell_len > theme.width and len(lines) == 1:
            lines.append(Text())
        lines[-1] = lines[-1] + "  " + part
    return lines


def _readings(device: Entry, theme: Theme, *, with_limits: bool = True) -> list[Text]:
    """Utilisation, temperature and power, as far as they are known."""
    parts = []
    if device.get("utilization_percent") is not None:
        parts.append(Text(f"{device['utilization_percent']} %" + (" busy" if with_limits else ""), style="bold"))
    if device.get("temperature_celsius") is not None:
        parts.append(_temperature(device, theme, with_limits=with_limits))
    if device.get("power_watts") is not None:
        limit = device.get("power_limit_watts") if with_limits else None
        parts.append(Text(f"{device['power_watts']:.0f}" + (f" of {limit:.0f} W" if limit is not None else " W")))
    return parts


def _temperature(device: Entry, theme: Theme, *, with_limits: bool) -> Text:
    degrees, limit = device["temperature_celsius"], device.get("temperature_limit_celsius")
    is_hot = limit is not None and degrees >= limit - HOT_DEGREES
    unit = "°C" if theme.unicode else "C"
    text = f"{degrees} of {limit} {unit}" if limit is not None and with_limits else f"{degrees} {unit}"
    return Text(text, style="bold red" if is_hot else "")


def _one_line(device: Entry, status: Entry, theme: Theme) -> list[Text]:
    """A device on one line: its name is cut before its readings, and its bar takes the room that is left."""
    problem = [Text(clean(device["error"]), style="bold yellow")] if device.get("error") else []
    parts = [Text(used_of_total(device)), *_readings(device, theme, with_limits=False), *problem]
    end = Text()
    for part in parts:
        end = end + "  " + part
    title = Text.assemble((f"GPU {device['index']}", "bold"), f" {clean(device.get('name') or 'unnamed device')}")
    if title.cell_len + end.cell_len > theme.width:
        title.truncate(max(MIN_TITLE, theme.width - end.cell_len))
    left = theme.width - title.cell_len - end.cell_len - 1
    if left < MIN_SMALL_BAR or not device.get("total_mib"):
        return [title + end]
    width = min(left, SMALL_BAR)
    small = bar(device, _parts(device, status), theme, width)
    return [title + " " * max(0, left - width) + small + end]
