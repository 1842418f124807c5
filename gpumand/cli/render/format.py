"""Numbers, durations and times as short text, and sanitizing of text from other users."""

from __future__ import annotations

import pwd
from collections.abc import Sized
from datetime import datetime
from typing import Any

NOTHING = "-"


def clean(text: Any) -> str:
    """Replace characters that are not printable, such as escape sequences.

    Names and reasons come from other users of the bus: an escape sequence in one must not reach a terminal.
    """
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(text))


def mib(value: int | None) -> str:
    """A size given in MiB as text: ``867 MiB``, ``13.0 GiB``; ``-`` when unknown."""
    if value is None:
        return NOTHING
    if value < 1024:
        return f"{value} MiB"
    return f"{value / 1024:.1f} GiB"


def duration(seconds: float) -> str:
    """A duration as text: ``40 ms``, ``1.2 s``, ``47 s``, ``3 min 5 s``, ``2 h 10 min``, ``3 d 4 h``."""
    if seconds < 0.0995:
        return f"{round(seconds * 1000)} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, smaller, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit} {rest} {small}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


def about(seconds: float) -> str:
    """An estimated duration as text, without digits that it does not have: ``1 s``, ``12 s``, ``3 min``."""
    return f"{max(1, round(seconds))} s" if seconds < 99.5 else f"{round(seconds / 60)} min"


def usec(value: int) -> str:
    """A duration given in microseconds as text; see ``duration``."""
    return duration(value / 1_000_000)


def ago(then_usec: int, now_usec: int) -> str:
    """A past time as text, in its largest unit: ``3 min ago``; ``never`` for 0."""
    if not then_usec:
        return "never"
    return f"{_coarse(max(0, now_usec - then_usec) / 1_000_000)} ago"


def ahead(then_usec: int, now_usec: int) -> str:
    """A future time as text, in its largest unit: ``in 14 min``; ``-`` for 0, ``now`` for a time that has passed."""
    if not then_usec:
        return NOTHING
    # Rounded, not cut: a lease that was just granted for 15 min must not show as 14 min.
    left = round((then_usec - now_usec) / 1_000_000)
    return f"in {_coarse(left)}" if left > 0 else "now"


def _coarse(seconds: float) -> str:
    """The largest unit that fits, rounded down."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def clock(now_usec: int) -> str:
    """Local time of day with milliseconds, for example ``09:41:07.250``."""
    moment = datetime.fromtimestamp(now_usec / 1_000_000).astimezone()
    return f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03d}"


def count(number: int, one: str, many: str = "") -> str:
    """A number with its noun: ``1 lease``, ``2 leases``."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def user_name(uid: int) -> str:
    """The name of a user, or ``uid 1000`` when the id has no name."""
    try:
        return clean(pwd.getpwuid(uid).pw_name)
    except (KeyError, OverflowError):
        return f"uid {uid}"


def user_label(uid: int) -> str:
    """A user in a sentence: ``user alice``, or ``uid 1000`` when the id has no name."""
    name = user_name(uid)
    return name if name.startswith("uid ") else f"user {name}"


def plural(items: Sized, one: str, many: str) -> str:
    """The word that agrees with the number of items: ``plural(names, "needs", "need")``."""
    return one if len(items) == 1 else many


def gpus(device: str) -> str:
    """A device as the bus names it, in a sentence: ``GPU 0``, or ``GPUs 0 and 1`` for ``0,1``."""
    indices = clean(device).split(",")
    return f"{plural(indices, 'GPU', 'GPUs')} {join_names(indices)}"


def join_names(names: list[str]) -> str:
    """Names as a list in a sentence: ``a``, ``a and b``, ``a, b and c``."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
