"""``history``: what happened, a line each."""

from __future__ import annotations

import pwd
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from gpumand.cli.render.format import NOTHING, clean, mib, usec
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
}
"""What is written for a kind, and in which style."""

TRIGGERS = {"manual": "by hand", "idle": "it was idle"}

FIRST_USEC, LAST_USEC = 0, 253_402_128_000_000_000
"""Moments that a calendar of four-digit years has, in whatever zone, with the day around them that Python looks at."""


def history_lines(
    entries: Sequence[Entry], now_usec: int, look: Theme, nothing: str = "Nothing of that kind is kept."
) -> list[Text]:
    """A table of what happened, or ``nothing`` for none; TOOK is a wait, a lease's life, a load, an eviction."""
    if not entries:
        return [Text(nothing)]
    columns = (
        Column("TIME"),
        Column("WHAT"),
        Column("CONSUMER", least=8),
        Column("GPU", wanted=3),
        Column("TOOK", right=True, wanted=1),
        Column("FREED", right=True, wanted=2),
        Column("DETAILS", least=24),
    )
    written = _clock(entries, now_usec)
    return table(columns, [_row(entry, written) for entry in entries], look)


def _row(entry: Entry, written: Callable[[int], str]) -> list[Text | str]:
    word, style = KINDS.get(str(entry["kind"]), (clean(entry["kind"]), ""))
    freed = entry.get("mib")
    return [
        written(int(entry["at_usec"])),
        Text(word, style=style),
        clean(entry["consumer"]),
        clean(entry.get("device") or NOTHING),
        usec(entry["duration_usec"]) if entry.get("duration_usec") is not None else NOTHING,
        mib(freed) if freed is not None else NOTHING,
        details(entry),
    ]


def details(entry: Entry) -> str:
    """For whom, by what, why, and whose it was, as far as it says."""
    words = [_trigger(entry), _by(entry), _why(entry), _owner(entry)]
    return "; ".join(word for word in words if word)


def _why(entry: Entry) -> str:
    """What it says itself, unless that says no more than who triggered it."""
    why = clean(entry.get("detail") or "")
    return "" if why == "asked for by hand" and entry.get("trigger") == "manual" else why


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


def user_name(uid: int) -> str:
    """The user's name, or ``uid 1000`` where there is none."""
    try:
        return clean(pwd.getpwuid(uid).pw_name)
    except (KeyError, OverflowError):
        return f"uid {uid}"


def _clock(entries: Sequence[Entry], now_usec: int) -> Callable[[int], str]:
    """Local time; without the date where all of it happened today."""
    today = _local(now_usec).date()
    same = all(_local(int(entry["at_usec"])).date() == today for entry in entries)
    shape = "%H:%M:%S" if same else "%Y-%m-%d %H:%M:%S"
    return lambda at_usec: _local(at_usec).strftime(shape)


def _local(at_usec: int) -> datetime:
    return datetime.fromtimestamp(min(max(at_usec, FIRST_USEC), LAST_USEC) / 1e6).astimezone()
