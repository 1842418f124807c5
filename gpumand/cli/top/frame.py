"""Draws the model as one frame: exactly as many lines as the screen has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gpumand.cli.render.format import clean, clock
from gpumand.cli.render.status import head
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import Theme
from gpumand.cli.top import tables
from gpumand.cli.top.details import detail_lines
from gpumand.cli.top.devices import device_blocks
from gpumand.cli.top.footer import footer
from gpumand.cli.top.graphs import MIN_LINES, Panel, consumer_panels, device_panels, graph_lines
from gpumand.cli.top.help import help_lines
from gpumand.cli.top.layout import distribute_lines, visible_part
from gpumand.cli.top.model import Entry, Model
from gpumand.cli.top.screen import Hit, Line, Screen, plain, side_by_side, truncated
from gpumand.cli.top.sections import Row, Section

MIN_LINES_FOR_DEVICES = 6
"""Lines above the footer below which devices are left out, so that the summary and the consumers fit."""

MIN_WIDTH_FOR_COLUMNS = 150
"""Columns of the screen from which on lists are shown at the right of devices and consumers."""

MIN_LINES_FOR_GRAPHS = 8
"""Lines below the devices from which on there are graphs."""

MAX_TABLE_GRAPH = 30
"""Characters of the graph of a consumer in the table: two readings in each."""

WIDE = 110
"""Columns from which on the table of consumers has graphs of that size; narrower ones get half of it."""

LEAST_IMPORTANT = (Section.PROCESSES, Section.EVENTS)
"""Lists that get a line less where lines are scarce."""

SINGULAR = {
    Section.DEVICES: "GPU {}",
    Section.CONSUMERS: "Consumer {}",
    Section.LEASES: "Lease {}",
    Section.QUEUE: "Waiting request {}",
    Section.PROCESSES: "Process",
    Section.EVENTS: "Event",
}
"""Titles of the details of a row, with its key where that means something to people."""

RIGHT_COLUMN = (Section.LEASES, Section.QUEUE, Section.PROCESSES, Section.EVENTS)


def frame(model: Model, now_usec: int, theme: Theme, height: int) -> list[Text]:
    """The lines of one screen; see ``screen``."""
    return screen(model, now_usec, theme, height).texts


def screen(model: Model, now_usec: int, theme: Theme, height: int) -> Screen:
    """One screen.

    Args:
        model: what to show.
        now_usec: the current time.
        theme: of the screen; its width is the width of the frame.
        height: number of lines; exactly as many are returned.
    """
    below, scroll = footer(model, theme, height), 0
    room = max(0, height - len(below))
    if model.help or model.details:
        body, scroll = _page(model, now_usec, theme, room)
    else:
        body = _body(model, now_usec, theme, room)
    lines = [*body[:room], *[Line()] * (room - len(body)), *below]
    return Screen([truncated(line, theme) for line in lines[-height:]], scroll)


def _page(model: Model, now_usec: int, theme: Theme, room: int) -> tuple[list[Line], int]:
    """The help page or the details of the selected row, and the line from which on it is shown."""
    row = model.row(model.focus)
    if model.help or row is None:
        lines = help_lines()
    else:
        lines = [
            Text(SINGULAR[model.focus].format(clean(row.key)), style="bold"),
            Text(),
            *detail_lines(row.entry, now_usec, theme),
        ]
    first = max(0, min(model.scroll, len(lines) - room + 2))
    shown = lines[first : first + max(0, room - 2)]
    more = len(lines) - first - len(shown)
    end = f"Press ↓ for {more} more lines, any other key to go back." if more > 0 else "Press any key to go back."
    return plain([*shown, Text(), Text(end if theme.unicode else end.replace("↓", "j"))]), first


def _body(model: Model, now_usec: int, theme: Theme, room: int) -> list[Line]:
    """Summary and devices, then graphs and lists, as far as they fit."""
    if model.status is None:
        return plain(
            [Text(model.stale_reason or "waiting for gpumand …", style="bold yellow" if model.stale_reason else "")]
        )
    top = plain(_head(model, now_usec, theme))
    left_room = room - len(top)
    view = _View(model, model.status, now_usec)
    own, others = _panels(view, theme)
    if theme.width >= MIN_WIDTH_FOR_COLUMNS and (others or any(model.rows(section) for section in RIGHT_COLUMN)):
        left_width = (theme.width - 3) // 2
        left, right = replace(theme, width=left_width), replace(theme, width=theme.width - 3 - left_width)
        first = _column(view, left, left_room, (None, Section.CONSUMERS), own, with_devices=True)
        second = _column(view, right, left_room, (*RIGHT_COLUMN, None), others)
        return [*top, *side_by_side(first, second, left, right)]
    shown = (None, Section.CONSUMERS, *RIGHT_COLUMN)
    return [*top, *_column(view, theme, left_room, shown, _merged(own, others), with_devices=True)]


def _head(model: Model, now_usec: int, theme: Theme) -> list[Text]:
    assert model.status is not None
    lines = head(model.status, theme)
    if model.stale_reason:
        lines = [Text(f"{theme.dot} {model.stale_reason}; last known state:", style="bold red"), *lines[1:]]
    now = clock(now_usec)[: len("hh:mm:ss")]
    gap = theme.width - lines[0].cell_len - len(now)
    return [lines[0] + Text(" " * gap + now) if gap > 1 else lines[0], *lines[1:]]


@dataclass(frozen=True, slots=True)
class _View:
    """What is drawn: the model with a status, at a moment."""

    model: Model
    status: Entry
    now_usec: int


def _panels(view: _View, theme: Theme) -> tuple[list[list[Panel]], list[list[Panel]]]:
    """The graphs for the left and for the right half of a wide screen: groups of which each fills its share.

    On the left are memory and utilisation of each device, on the right power and temperature of the selected device
    and the memory of consumers.
    """
    devices = [one for one in view.status["devices"] if one.get("history")]
    named, selected = len(view.status["devices"]) > 1, _graphed_device(view.model, devices)
    groups = [device_panels(one, theme, named=named) for one in devices]
    more = consumer_panels(view.status["consumers"], view.model.selected)
    if selected is not None:
        more = [*device_panels(selected, theme, named=named)[2:], *more]
        # The selected device first: where there is no room for all of them, it is the one that is shown.
        groups.insert(0, groups.pop(devices.index(selected)))
    return [group[:2] for group in groups], [more] if more else []


def _merged(own: list[list[Panel]], others: list[list[Panel]]) -> list[list[Panel]]:
    """The graphs for a screen without halves: those of the selected device with those of the right half."""
    return [[*(own[0] if own else []), *(others[0] if others else [])], *own[1:]] if own or others else []


# -- one column of the screen --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    """A list or the graphs.

    Attributes:
        lines: heading and rows; empty for graphs, which are drawn when their height is known.
        limits: lines that it gets at most in each stage of the layout.
        section: the list; None = the graphs.
        rows: the rows of the list.
        panels: the graphs.
    """

    lines: Sequence[Text]
    limits: tuple[int, int, int, int]
    section: Section | None = None
    rows: Sequence[Row] = ()
    panels: Sequence[list[Panel]] = ()


def _column(
    view: _View,
    theme: Theme,
    room: int,
    shown: Sequence[Section | None],
    panels: Sequence[list[Panel]],
    *,
    with_devices: bool = False,
) -> list[Line]:
    """Devices, graphs (None) and lists below each other."""
    lines = _devices(view.model, view.status, theme, room) if with_devices else []
    left = room - len(lines)
    parts = [_graphs(panels, left) if one is None else _list(view, one, theme, room) for one in shown]
    parts = [one for one in parts if one.limits[-1]]
    # Blank lines between parts are the first thing to go on a small screen.
    wanted = sum(one.limits[0 if one.section is None else 1] for one in parts)
    gaps = len(parts) if wanted + len(parts) <= left else 0
    for part, height in zip(parts, _heights(view.model, parts, left - gaps), strict=True):
        if height:
            lines += [Line()] if gaps and lines else []
            lines += _drawn(view.model, part, height, theme)
    return lines


def _heights(model: Model, parts: Sequence[_Part], room: int) -> list[int]:
    """The height of each part. What has the focus comes first, then the others in their order."""
    first = None if model.focus is Section.DEVICES else model.focus
    order = sorted(range(len(parts)), key=lambda place: (parts[place].section is not first, _rank(parts[place])))
    heights = distribute_lines([[parts[place].limits[stage] for place in order] for stage in range(4)], room)
    return [heights[order.index(place)] for place in range(len(parts))]


def _rank(part: _Part) -> int:
    """The place of a part when lines are scarce: consumers, leases, queue, graphs, processes, events."""
    order = (Section.CONSUMERS, Section.LEASES, Section.QUEUE, None, Section.PROCESSES, Section.EVENTS)
    return order.index(part.section)


def _graphs(panels: Sequence[list[Panel]], room: int) -> _Part:
    if room < MIN_LINES_FOR_GRAPHS or not panels:
        return _Part((), (0, 0, 0, 0))
    good = max(MIN_LINES + 2, room // 3)
    return _Part((), (MIN_LINES, MIN_LINES + 2, good, room), panels=panels)


def _list(view: _View, section: Section, theme: Theme, room: int) -> _Part:
    rows = view.model.rows(section)
    lines = _table(view, section, rows, replace(theme, width=theme.width - 2, legend=True))
    if not lines:
        return _Part((), (0, 0, 0, 0), section)
    all_lines = len(lines)
    has_focus = view.model.focus is section
    least = min(all_lines, max(4, room // 2) if has_focus else 3 if section in LEAST_IMPORTANT else 4)
    fair = max(least, min(all_lines, room // 3))
    return _Part(lines, (least, fair, fair, all_lines), section, rows)


def _table(view: _View, section: Section, rows: Sequence[Row], theme: Theme) -> list[Text]:
    match section:
        case Section.CONSUMERS if not rows:
            lines = [Text("No consumers are configured.")]
        case Section.CONSUMERS:
            graph_width = MAX_TABLE_GRAPH if theme.width >= WIDE else MAX_TABLE_GRAPH // 2
            lines = tables.consumer_table(rows, view.now_usec, theme, graph_width)
        case Section.LEASES:
            lines = tables.lease_table(rows, view.now_usec, theme)
        case Section.QUEUE:
            lines = tables.queue_table(rows, theme)
        case Section.PROCESSES:
            lines = tables.process_table(rows, view.status["leases"], theme)
        case _:
            lines = tables.event_table(rows, view.now_usec, theme)
    return lines


def _drawn(model: Model, part: _Part, height: int, theme: Theme) -> list[Line]:
    """A part in its height: the heading and the rows around the selected one, or the graphs."""
    if part.section is None:
        return plain(_graph_block(part.panels, theme, height))
    if not part.rows:
        return plain(part.lines[:height])
    has_focus = model.focus is part.section
    position = model.position(part.section, part.rows)
    heading = Text("  ") + part.lines[0]
    if has_focus:
        heading.stylize("underline")
    first, count = visible_part(len(part.rows), height - 1, position)
    places = range(first, first + count)
    rows = [_row_line(part, place, theme, is_selected=has_focus and place == position) for place in places]
    lines = [Line.whole(heading, Hit(part.section)), *rows]
    if count < len(part.rows) and height > len(lines):
        lines.append(Line(Text(f"  {theme.ellipsis} {len(part.rows) - count} more", style="bright_black")))
    return lines


def _row_line(part: _Part, place: int, theme: Theme, *, is_selected: bool) -> Line:
    assert part.section is not None
    mark = "▸ " if theme.unicode else "> "
    text = Text(mark if is_selected else "  ") + part.lines[place + 1]
    if is_selected and theme.color:
        # The selected row drops its other styles: colored states in reverse video are hard to read.
        text = Text(text.plain + " " * (theme.width - text.cell_len), "reverse")
    return Line.whole(text, Hit(part.section, part.rows[place].key))


# -- devices and graphs --------------------------------------------------------------------------------------------


def _devices(model: Model, status: Entry, theme: Theme, room: int) -> list[Line]:
    """The devices on at most half of the screen; where not all fit, those around the selected one."""
    if room < MIN_LINES_FOR_DEVICES:
        return []
    rows, limit = model.rows(Section.DEVICES), max(1, room // 2)
    blocks = device_blocks(rows, status, theme, limit)
    position = model.position(Section.DEVICES, rows)
    first, count = visible_part(len(blocks), limit, position) if sum(map(len, blocks)) > limit else (0, len(blocks))
    lines: list[Line] = []
    for place in range(first, first + count):
        for number, text in enumerate(blocks[place]):
            is_selected = model.focus is Section.DEVICES and place == position and number == 0
            shown = Text(text.plain, "reverse") if is_selected and theme.color else text
            shown = Text("> ") + shown if is_selected and not theme.color else shown
            lines.append(Line.whole(shown, Hit(Section.DEVICES, rows[place].key)))
    if count < len(blocks):
        lines.append(Line(Text(f"  {theme.ellipsis} {len(blocks) - count} more GPUs", style="bright_black")))
    return lines[: max(limit, 1)]


def _graph_block(groups: Sequence[list[Panel]], theme: Theme, height: int) -> list[Text]:
    """The graphs: of all devices where each gets enough lines, otherwise of the first."""
    shown = groups if len(groups) * (MIN_LINES + 2) <= height else groups[:1]
    lines: list[Text] = []
    for place, panels in enumerate(shown):
        lines += graph_lines(panels, theme, (height - len(lines)) // (len(shown) - place))
    return lines


def _graphed_device(model: Model, devices: Sequence[Entry]) -> Entry | None:
    """The selected device, or while another list has the focus, the device of the selected consumer."""
    if not devices:
        return None
    consumer, row = model.consumer, model.row(Section.DEVICES)
    chosen = row.key if row is not None else ""
    if model.focus is not Section.DEVICES and consumer is not None and consumer.get("device"):
        chosen = str(consumer["device"]).split(",")[0]
    return next((one for one in devices if str(one["index"]) == chosen), devices[0])
