"""The progress of a waiting request as one line of plain text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpumand.cli.render.format import clean, duration

Entry = Mapping[str, Any]

IN_TRANSITION = ("loading", "unloading")


def wait_status(status: Entry, consumer: str, uid: int, elapsed_sec: float) -> str:
    """What this request waits for now. The text changes only when the state does, so that a log of it stays short.

    Args:
        status: the answer of GetStatus.
        consumer: name of the requested consumer.
        uid: user id of this process.
        elapsed_sec: seconds since the request was sent; distinguishes it from other requests of the same user.
    """
    own = next((one for one in status["consumers"] if one["name"] == consumer), None)
    waiting = _own_request(status, consumer, uid, elapsed_sec)
    transitions = [_transition(one) for one in status["consumers"] if _is_in_transition(one, consumer)]
    words = []
    if waiting is not None:
        words.append(_queue_position(waiting, len(status["queue"])))
    elif own is not None and own["residency"] in IN_TRANSITION:
        transitions.append(str(own["residency"]))
    return f"{clean(consumer) or 'reservation'}: {'; '.join([*words, *transitions]) or 'request sent'}"


def progress_line(text: str, elapsed_sec: float, width: int) -> str:
    """The status text and the elapsed time, truncated to the width of the screen."""
    tail = f" ({duration(elapsed_sec)})"
    room = max(10, width - len(tail) - 1)
    return (text if len(text) <= room else text[: room - 1] + "…") + tail


def _own_request(status: Entry, consumer: str, uid: int, elapsed_sec: float) -> Entry | None:
    """This process's request in the queue.

    The status has no id of a request, so this is the one of the same consumer and user whose age is closest.
    """
    own_requests = [one for one in status["queue"] if one["consumer"] == consumer and one.get("owner_uid", uid) == uid]
    return min(own_requests, key=lambda one: abs(one["waited_usec"] / 1_000_000 - elapsed_sec), default=None)


def _queue_position(waiting: Entry, length: int) -> str:
    place = f"position {waiting['position']} of {length}, " if length > 1 else ""
    return f"{place}waiting: {clean(waiting['waiting_for'] or 'its turn')}"


def _is_in_transition(one: Entry, consumer: str) -> bool:
    """Whether another consumer is being evicted or loaded, which this request may wait for."""
    return bool(one["name"] != consumer and one["residency"] in IN_TRANSITION)


def _transition(one: Entry) -> str:
    return f"{clean(one['name'])} is {one['residency']}"
