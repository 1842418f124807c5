"""Draws the model as one frame: exactly as many lines as the screen has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gpumand.cli.render.bar import Share, bar, legend, shares
from gpumand.cli.render.format import clean, clock
from gpumand.cli.render.history import history_lines
from gpumand.cli.render.status import consumer_table, device_title, head, lease_lines, queue_lines
from gpumand.cli.render.telemetry import consumer_history_line, telemetry_lines
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import Theme
from gpumand.cli.top.model import Entry, Model

MAX_FOREIGN = 4
"""Maximum number of foreign processes that get a part of their own in a device's bar."""

FOOTER_LINES = 2
"""Lines at the bottom: the message and the keys."""

MIN_LINES_FOR_DEVICES = 6
"""Lines above the footer below which devices are left out, so that the summary and the consumers fit."""

MIN_LINES_FOR_HISTORY = 10
"""Lines left below the devices from which on the history of the selected consumer is shown."""

KEYS = (
    ("↑↓", "select"),
    ("l", "load"),
    ("e", "evict"),
    ("p", "pin or unpin"),
    ("?", "help"),
    ("q", "quit"),
)

FEW_KEYS = (("l", "load"), ("e", "evict"), ("p", "pin"), ("?", "help"), ("q", "quit"))
"""Keys for narrow screens: the key that quits must never be the one that is truncated."""

HELP = (
    "up, down, j, k     select a consumer; also Page Up, Page Down, Home, End",
    "l                  load it, evicting others if needed",
    "e                  evict it, unless it is leased or pinned",
    "E                  evict it by force: its leases are revoked",
    "p                  pin it (it is not evicted to make room), or unpin it",
    "q, Escape, Ctrl-C  quit; Ctrl-Z suspends, fg resumes",
    "",
    "The bar of a device has a letter or color for each consumer, digits or",
    "shades for foreign processes, # for other memory of no consumer, and ? for",
    "unnamed memory, which belongs to no process that the driver names. The line",
    "below names each part, memory reserved for loads, and free memory.",
    "",
    "The graphs show the last two minutes, two readings in each character.",
)


def frame(model: Model, now_usec: int, theme: Theme, height: int) -> list[Text]:
    """The lines of one screen.

    Args:
        model: what to show.
        now_usec: the current time.
        theme: of the screen; its width is the width of the frame.
        height: number of lines; exactly as many are returned.
    """
    room = max(0, height - FOOTER_LINES)
    body = _help_lines(theme) if model.help else _body(model, now_usec, theme, room)
    body = [_truncated(line, theme) for line in body[:room]]
    lines = [*body, *[Text()] * (room - len(body)), _message_line(model, theme), _keys(theme)]
    return [_truncated(line, theme) for line in lines[-height:]]


def _truncated(line: Text, theme: Theme) -> Text:
    """The line, cut to the width of the screen: the terminal would wrap a longer one and break the layout."""
    if line.cell_len <= theme.width:
        return line
    cut = line.copy()
    cut.truncate(max(0, theme.width - 1))
    cut.append(theme.ellipsis)
    return cut


# -- the sections ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Section:
    """A table below the devices.

    Attributes:
        lines: heading and rows; empty when there is nothing to show.
        min_lines: lines that it gets before other sections get more than their minimum.
    """

    lines: Sequence[Text]
    min_lines: int


def _body(model: Model, now_usec: int, theme: Theme, room: int) -> list[Text]:
    """Summary and devices, then consumers, waiting requests, leases and evictions, as far as they fit."""
    if model.status is None:
        return [Text(model.stale_reason or "waiting for gpumand …", style="bold yellow" if model.stale_reason else "")]
    top = [*_head(model, now_usec, theme), *_devices(model.status, theme, room)]
    if model.consumer is not None and room - len(top) >= MIN_LINES_FOR_HISTORY:
        history = consumer_history_line(model.consumer, theme)
        top += [history] if history else []
    sections = [
        _Section(_consumers(model, now_usec, theme), 4),
        _Section(queue_lines(model.status["queue"], theme), 3),
        _Section(lease_lines(model.status["leases"], now_usec, theme), 3),
        _Section(_evictions(model, now_usec, theme), 3),
    ]
    shown = [section for section in sections if section.lines]
    left = room - len(top)
    # Blank lines between sections are the first thing to go on a small screen.
    needed = sum(min(len(section.lines), section.min_lines) for section in shown)
    gaps = len(shown) if left - len(shown) >= needed else 0
    lengths, minimums = [len(section.lines) for section in shown], [section.min_lines for section in shown]
    heights = distribute_lines(lengths, minimums, left - gaps)
    for section, lines in zip(shown, heights, strict=True):
        top += [Text()] if gaps and lines else []
        top += _scrolled(section.lines, lines, model.position if section is sections[0] else 0, theme)
    return top


def distribute_lines(wanted: Sequence[int], min_lines: Sequence[int], room: int) -> list[int]:
    """Divide the lines of the screen among sections; a section never gets only its heading.

    Each section gets its minimum first, in order; the remaining lines go to the sections in the same order.

    Args:
        wanted: lines that each section has.
        min_lines: lines that each section gets before others get more.
        room: lines to divide.

    Returns:
        Lines for each section.
    """
    heights_given = [0] * len(wanted)
    for limits in ([min(one) for one in zip(wanted, min_lines, strict=True)], wanted):
        for index, limit in enumerate(limits):
            more = min(limit - heights_given[index], room)
            if more > 0 and (heights_given[index] + more > 1 or wanted[index] == 1):
                heights_given[index] += more
                room -= more
    return heights_given


def _scrolled(lines: Sequence[Text], height: int, position: int, theme: Theme) -> list[Text]:
    """The heading and as many rows as fit, including the selected one.

    The last line gives the number of rows left out.
    """
    if len(lines) <= height:
        return list(lines)
    rows, room = lines[1:], height - 1
    if room < 2:
        return [lines[0], *rows[position : position + 1]][: max(0, height)]
    first = max(0, min(position - (room - 1) // 2, len(rows) - (room - 1)))
    shown = rows[first : first + room - 1]
    more = len(rows) - len(shown)
    return [lines[0], *shown, Text(f"  {theme.ellipsis} {more} more", style="bright_black")]


def _head(model: Model, now_usec: int, theme: Theme) -> list[Text]:
    assert model.status is not None
    lines = head(model.status, theme)
    if model.stale_reason:
        lines = [Text(f"{theme.dot} {model.stale_reason}; last known state:", style="bold red"), *lines[1:]]
    now = clock(now_usec)[: len("hh:mm:ss")]
    gap = theme.width - lines[0].cell_len - len(now)
    return [lines[0] + Text(" " * gap + now) if gap > 1 else lines[0], *lines[1:]]


def _devices(status: Entry, theme: Theme, room: int) -> list[Text]:
    """The devices in the most detailed layout that takes at most half of the screen; none on a tiny screen."""
    if room < MIN_LINES_FOR_DEVICES:
        return []
    for layout in (_whole_device, _bar_only, _title_only):
        lines = [line for device in status["devices"] for line in layout(device, status, theme)]
        if len(lines) <= max(1, room // 2):
            return lines
    return lines[: max(1, room // 2)]


def _whole_device(device: Entry, status: Entry, theme: Theme) -> list[Text]:
    lines = _bar_only(device, status, theme)
    return [*lines, *(legend(device, _parts(device, status), theme) if device.get("total_mib") else [])]


def _bar_only(device: Entry, status: Entry, theme: Theme) -> list[Text]:
    lines = _title_only(device, status, theme)
    lines += [bar(device, _parts(device, status), theme)] if device.get("total_mib") else []
    return [*lines, *telemetry_lines(device, theme)]


def _parts(device: Entry, status: Entry) -> list[Share]:
    return shares(device, status["consumers"], MAX_FOREIGN, reservations=status["leases"])


def _title_only(device: Entry, _: Entry, theme: Theme) -> list[Text]:
    lines = device_title(device, theme)
    return [*lines, Text(f"  {clean(device['error'])}", style="bold yellow")] if device.get("error") else lines


def _consumers(model: Model, now_usec: int, theme: Theme) -> list[Text]:
    """The table of consumers, with a mark before the selected one."""
    if not model.consumers:
        return [Text("No consumers are configured.")]
    mark = "▸ " if theme.unicode else "> "
    rows = consumer_table(model.consumers, now_usec, replace(theme, width=theme.width - len(mark), legend=True))
    lines = [Text("  ") + rows[0]]
    for place, row in enumerate(rows[1:]):
        is_selected = place == model.position
        line = Text(mark if is_selected else "  ") + row
        if is_selected and theme.color:
            # The selected row drops its other styles: colored states in reverse video are hard to read.
            line = Text(line.plain + " " * (theme.width - line.cell_len), "reverse")
        lines.append(line)
    return lines


def _evictions(model: Model, now_usec: int, theme: Theme) -> list[Text]:
    return history_lines(model.recent, now_usec, theme) if model.recent else []


# -- the footer --------------------------------------------------------------------------------------------------------


def _message_line(model: Model, theme: Theme) -> Text:
    """The open question, else the result of the last key, else the error of the selected consumer."""
    if model.question is not None:
        return Text.assemble((model.question.text, "bold yellow"), " y = yes, any other key = no")
    if model.message.text:
        return Text(clean(model.message.text), style="bold red" if model.message.is_error else "bold")
    error = model.consumer.get("error") if model.consumer else ""
    return Text(f"{clean(model.selected)}: {clean(error)}", style="red") if error else Text()


def _keys(theme: Theme) -> Text:
    line = _keys_line(KEYS, theme, " = ", "  ")
    return line if line.cell_len <= theme.width else _keys_line(FEW_KEYS, theme, "=", " ")


def _keys_line(keys: Sequence[tuple[str, str]], theme: Theme, equals: str, gap: str) -> Text:
    line = Text()
    for name, what in keys:
        shown = name if theme.unicode or name.isascii() else "jk"
        line.append(f" {shown} " if theme.color else f" {shown}", style="reverse" if theme.color else "")
        line.append(f"{what}{gap}" if theme.color else f"{equals}{what}{gap}")
    line.rstrip()
    return line


def _help_lines(theme: Theme) -> list[Text]:
    words = [Text("Keys", style="bold"), Text(), *(Text(f"  {line}") for line in HELP)]
    return [*words, Text(), Text("Press any key to go back.")]
