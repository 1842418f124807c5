"""One frame: what the model has, as exactly as many lines as the screen has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gpumand.cli.render.bar import bar, key, shares
from gpumand.cli.render.format import clean, clock
from gpumand.cli.render.history import history_lines
from gpumand.cli.render.status import consumer_table, device_title, head, lease_lines, queue_lines
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import Theme
from gpumand.cli.top.model import Entry, Model

MOST_FOREIGN = 4
"""Foreign processes of a device that have a part of its bar of their own."""

FOOT = 2
"""Lines at the bottom: what was said, and the keys."""

TINY = 6
"""Lines above the foot with which there is room for head and consumers only."""

KEYS = (
    ("↑↓", "choose"),
    ("l", "load"),
    ("e", "evict"),
    ("p", "pin or unpin"),
    ("?", "help"),
    ("q", "quit"),
)

FEW_KEYS = (("l", "load"), ("e", "evict"), ("p", "pin"), ("?", "help"), ("q", "quit"))
"""Where there is no room for all: how to leave must not be what is cut off."""

HELP = (
    "up, down, j, k     choose a consumer; also Page Up, Page Down, Home, End",
    "l                  load it, evicting others where needed",
    "e                  evict it, unless it is leased or pinned",
    "E                  evict it by force: its leases are revoked",
    "p                  pin it (it is not evicted to make room), or unpin it",
    "q, Escape, Ctrl-C  leave; Ctrl-Z stops, fg goes on",
    "",
    "The bar of a device: a letter or color for each consumer, digits or",
    "shades for foreign processes, # for other memory of no consumer; below it",
    "stands which is which, and how much is reserved for loads and free.",
)


def frame(model: Model, now_usec: int, look: Theme, height: int) -> list[Text]:
    """The lines of a screen of that height and the look's width."""
    room = max(0, height - FOOT)
    body = _help_lines(look) if model.help else _body(model, now_usec, look, room)
    body = [_cut(line, look) for line in body[:room]]
    lines = [*body, *[Text()] * (room - len(body)), _spoken(model, look), _keys(look)]
    return [_cut(line, look) for line in lines[-height:]]


def _cut(line: Text, look: Theme) -> Text:
    """Nothing may reach beyond the last column: the terminal would wrap it."""
    if line.cell_len <= look.width:
        return line
    cut = line.copy()
    cut.truncate(max(0, look.width - 1))
    cut.append(look.ellipsis)
    return cut


# -- the parts ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    """A table below the devices.

    Attributes:
        lines: heading and rows; empty where there is nothing of it.
        least: lines that it gets before others get more.
    """

    lines: Sequence[Text]
    least: int


def _body(model: Model, now_usec: int, look: Theme, room: int) -> list[Text]:
    """Head and devices, then consumers, queue, leases and evictions, each as far as there is room."""
    if model.status is None:
        return [Text(model.away or "asking gpumand …", style="bold yellow" if model.away else "")]
    top = [*_head(model, now_usec, look), *_devices(model.status, look, room)]
    parts = [
        _Part(_consumers(model, now_usec, look), 4),
        _Part(queue_lines(model.status["queue"], look), 3),
        _Part(lease_lines(model.status["leases"], now_usec, look), 3),
        _Part(_evictions(model, now_usec, look), 3),
    ]
    shown = [part for part in parts if part.lines]
    left = room - len(top)
    gaps = len(shown) if left - len(shown) >= sum(min(len(part.lines), part.least) for part in shown) else 0
    heights = share_out([len(part.lines) for part in shown], [part.least for part in shown], left - gaps)
    for part, lines in zip(shown, heights, strict=True):
        top += [Text()] if gaps and lines else []
        top += _window(part.lines, lines, model.position if part is parts[0] else 0, look)
    return top


def share_out(wanted: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Lines for each part: the least to each in turn, then the rest in turn; never a heading alone."""
    given = [0] * len(wanted)
    for limits in ([min(one) for one in zip(wanted, least, strict=True)], wanted):
        for index, limit in enumerate(limits):
            more = min(limit - given[index], room)
            if more > 0 and (given[index] + more > 1 or wanted[index] == 1):
                given[index] += more
                room -= more
    return given


def _window(lines: Sequence[Text], height: int, position: int, look: Theme) -> list[Text]:
    """The heading and as many rows as fit, the chosen one among them; how many are left out stands in the last."""
    if len(lines) <= height:
        return list(lines)
    rows, room = lines[1:], height - 1
    if room < 2:
        return [lines[0], *rows[position : position + 1]][: max(0, height)]
    first = max(0, min(position - (room - 1) // 2, len(rows) - (room - 1)))
    shown = rows[first : first + room - 1]
    more = len(rows) - len(shown)
    return [lines[0], *shown, Text(f"  {look.ellipsis} {more} more", style="bright_black")]


def _head(model: Model, now_usec: int, look: Theme) -> list[Text]:
    assert model.status is not None
    lines = head(model.status, look)
    if model.away:
        lines = [Text(f"{look.dot} {model.away}; last seen:", style="bold red"), *lines[1:]]
    now = clock(now_usec)[: len("hh:mm:ss")]
    gap = look.width - lines[0].cell_len - len(now)
    return [lines[0] + Text(" " * gap + now) if gap > 1 else lines[0], *lines[1:]]


def _devices(status: Entry, look: Theme, room: int) -> list[Text]:
    """Each with bar and key; with less where they would take more than half of the screen, none of it on a tiny one."""
    if room < TINY:
        return []
    for teller in (_whole_device, _bar_only, _title_only):
        lines = [line for device in status["devices"] for line in teller(device, status["consumers"], look)]
        if len(lines) <= max(1, room // 2):
            return lines
    return lines[: max(1, room // 2)]


def _whole_device(device: Entry, consumers: Sequence[Entry], look: Theme) -> list[Text]:
    lines = _bar_only(device, consumers, look)
    parts = shares(device, consumers, MOST_FOREIGN)
    return [*lines, *(key(device, parts, look) if device.get("total_mib") else [])]


def _bar_only(device: Entry, consumers: Sequence[Entry], look: Theme) -> list[Text]:
    lines = _title_only(device, consumers, look)
    return [*lines, *([bar(device, shares(device, consumers, MOST_FOREIGN), look)] if device.get("total_mib") else [])]


def _title_only(device: Entry, _: Sequence[Entry], look: Theme) -> list[Text]:
    lines = device_title(device, look)
    return [*lines, Text(f"  {clean(device['error'])}", style="bold yellow")] if device.get("error") else lines


def _consumers(model: Model, now_usec: int, look: Theme) -> list[Text]:
    """The table, with a mark before the chosen one."""
    if not model.consumers:
        return [Text("No consumers are configured.")]
    mark = "▸ " if look.unicode else "> "
    rows = consumer_table(model.consumers, now_usec, replace(look, width=look.width - len(mark), legend=True))
    lines = [Text("  ") + rows[0]]
    for place, row in enumerate(rows[1:]):
        chosen = place == model.position
        line = Text(mark if chosen else "  ") + row
        if chosen and look.color:  # of one color: states in reverse would be hard to read
            line = Text(line.plain + " " * (look.width - line.cell_len), "reverse")
        lines.append(line)
    return lines


def _evictions(model: Model, now_usec: int, look: Theme) -> list[Text]:
    return history_lines(model.recent, now_usec, look) if model.recent else []


# -- the foot ----------------------------------------------------------------------------------------------------------


def _spoken(model: Model, look: Theme) -> Text:
    """A question, else what came of the last key, else what is wrong with the chosen consumer."""
    if model.question is not None:
        return Text.assemble((model.question.text, "bold yellow"), " y = yes, any other key = no")
    if model.message.text:
        return Text(clean(model.message.text), style="bold red" if model.message.is_error else "bold")
    error = model.consumer.get("error") if model.consumer else ""
    return Text(f"{clean(model.selected)}: {clean(error)}", style="red") if error else Text()


def _keys(look: Theme) -> Text:
    line = _keys_line(KEYS, look, " = ", "  ")
    return line if line.cell_len <= look.width else _keys_line(FEW_KEYS, look, "=", " ")


def _keys_line(keys: Sequence[tuple[str, str]], look: Theme, equals: str, gap: str) -> Text:
    line = Text()
    for name, what in keys:
        shown = name if look.unicode or name.isascii() else "jk"
        line.append(f" {shown} " if look.color else f" {shown}", style="reverse" if look.color else "")
        line.append(f"{what}{gap}" if look.color else f"{equals}{what}{gap}")
    line.rstrip()
    return line


def _help_lines(look: Theme) -> list[Text]:
    words = [Text("Keys", style="bold"), Text(), *(Text(f"  {line}") for line in HELP)]
    return [*words, Text(), Text("Any key goes back.")]
