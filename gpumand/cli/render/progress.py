"""What a waiting request waits for, in one line of plain text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpumand.cli.render.format import clean, duration

Entry = Mapping[str, Any]

IN_MOTION = ("loading", "unloading")


def stage(status: Entry, consumer: str, uid: int, elapsed_sec: float) -> str:
    """What happens for us now; it changes only when something does, so that a log of it stays short.

    Args:
        status: a snapshot.
        consumer: what we asked for.
        uid: who we are.
        elapsed_sec: how long we have waited; tells our request from another of ours.
    """
    own = next((one for one in status["consumers"] if one["name"] == consumer), None)
    waiting = _waiting(status, consumer, uid, elapsed_sec)
    moving = [_motion(one) for one in status["consumers"] if _moves(one, consumer)]
    words = []
    if waiting is not None:
        words.append(_queued(waiting, len(status["queue"])))
    elif own is not None and own["residency"] in IN_MOTION:
        moving.append(str(own["residency"]))
    return f"{clean(consumer)}: {'; '.join([*words, *moving]) or 'asked'}"


def progress_line(text: str, elapsed_sec: float, width: int) -> str:
    """The stage and the seconds so far, cut to the width of the screen."""
    tail = f" ({duration(elapsed_sec)})"
    room = max(10, width - len(tail) - 1)
    return (text if len(text) <= room else text[: room - 1] + "…") + tail


def _waiting(status: Entry, consumer: str, uid: int, elapsed_sec: float) -> Entry | None:
    """Our request in the queue: of those with our consumer and uid the one that has waited as long as we have."""
    ours = [one for one in status["queue"] if one["consumer"] == consumer and one.get("owner_uid", uid) == uid]
    return min(ours, key=lambda one: abs(one["waited_usec"] / 1_000_000 - elapsed_sec), default=None)


def _queued(waiting: Entry, length: int) -> str:
    place = f"place {waiting['position']} of {length}, " if length > 1 else ""
    return f"{place}waiting: {clean(waiting['waiting_for'] or 'its turn')}"


def _moves(one: Entry, consumer: str) -> bool:
    """Whether another consumer is being evicted or loaded (which may be what we wait for)."""
    return bool(one["name"] != consumer and one["residency"] in IN_MOTION)


def _motion(one: Entry) -> str:
    return f"{clean(one['name'])} is {one['residency']}"
