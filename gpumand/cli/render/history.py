"""Output of ``history``: one line for each recorded event."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from gpumand.cli.option_names import with_command_line_options
from gpumand.cli.render.format import NOTHING, clean, mib, usec, user_name
from gpumand.cli.render.table import Column, table
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import Theme

Entry = Mapping[str, Any]

KINDS = {
    "grant": ("granted", "green"),
    "end": ("lease ended", ""),
    "refusal": ("refused", "bold red"),
    "load": ("loaded", "cyan"),
    "load-failed": ("load failed", "bold red"),
    "eviction": ("evicted", "yellow"),
    "eviction-failed": ("eviction failed", "bold red"),
    "eviction-deferred": ("unload put off", "yellow"),
}
"""Text and style for each kind of entry."""

TRIGGERS = {"manual": "manual", "idle": "idle timeout", "reservation": "for a reservation"}
"""Text for the triggers that are not the name of a consumer."""

FIRST_USEC, LAST_USEC = 0, 253_402_128_000_000_000
"""Range that times are clamped to, in microseconds since 1970: ``datetime`` fails outside the years 1 to 9999.

The last day of 9999 is left out because converting to local time adds up to a day.
"""


def history_lines(
    entries: Sequence[Entry], now_usec: int, theme: Theme, empty_text: str = "No matching entries."
) -> list[Text]:
    """A table of history entries, newest first.

    TOOK is the duration of the wait, the lease, the load or the eviction.

    Args:
        entries: entries of GetHistory.
        now_usec: the current time, to leave out the date when every entry is of today.
        theme: of the screen.
        empty_text: the line to show when there are no entries.
    """
    if not entries:
        return [Text(empty_text)]
    columns = (
        Column("TIME"),
        Column("WHAT"),
        Column("CONSUMER", min_width=8),
        Column("GPU", drop_priority=3),
        Column("TOOK", right=True, drop_priority=1),
        Column("FREED", right=True, drop_priority=2),
        Column("DETAILS", min_width=24),
    )
    format_time = _time_formatter(entries, now_usec)
    return table(columns, [_row(entry, format_time) for entry in entries], theme)


def _row(entry: Entry, format_time: Callable[[int], str]) -> list[Text | str]:
    word, style = KINDS.get(str(entry["kind"]), (clean(entry["kind"]), ""))
    freed = entry.get("mib")
    return [
        format_time(int(entry["at_usec"])),
        Text(word, style=style),
        clean(entry["consumer"] or "reservation"),
        clean(entry.get("device") or NOTHING),
        usec(entry["duration_usec"]) if entry.get("duration_usec") is not None else NOTHING,
        mib(freed) if freed is not None else NOTHING,
        details(entry),
    ]


def details(entry: Entry) -> str:
    """The details column: trigger, eviction method, reason and owner, as far as the entry has them."""
    parts = [_trigger(entry), _by(entry), _why(entry), _owner(entry)]
    return "; ".join(word for word in parts if word)


def _why(entry: Entry) -> str:
    """The entry's own detail, unless it only repeats the trigger."""
    why = clean(with_command_line_options(entry.get("detail") or ""))
    return "" if why == "requested manually" and entry.get("trigger") == "manual" else why


def _trigger(entry: Entry) -> str:
    trigger = clean(entry.get("trigger") or "")
    return TRIGGERS.get(trigger, f"for {trigger}") if trigger else ""


def _by(entry: Entry) -> str:
    return f"by {clean(entry['method'])}" if entry.get("method") else ""


def _owner(entry: Entry) -> str:
    if entry.get("uid") is None:
        return ""
    lease = f", lease {clean(entry['lease'])}" if entry.get("lease") else ""
    return user_name(int(entry["uid"])) + lease


def _time_formatter(entries: Sequence[Entry], now_usec: int) -> Callable[[int], str]:
    """A function that formats a time in microseconds as local time, without the date if all entries are of today."""
    today = _local(now_usec).date()
    is_all_today = all(_local(int(entry["at_usec"])).date() == today for entry in entries)
    layout = "%H:%M:%S" if is_all_today else "%Y-%m-%d %H:%M:%S"
    return lambda at_usec: _local(at_usec).strftime(layout)


def _local(at_usec: int) -> datetime:
    return datetime.fromtimestamp(min(max(at_usec, FIRST_USEC), LAST_USEC) / 1e6).astimezone()
