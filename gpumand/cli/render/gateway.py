"""The state of ``gpumand-gateway`` as text: its listeners, and the requests in flight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpumand.cli.render.format import ago, clean, count, usec
from gpumand.cli.render.table import Column, table
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import Theme

Entry = Mapping[str, Any]

_LISTENERS = (Column("LISTENER"), Column("CONSUMER"), Column("ADDRESS", min_width=16))
_REQUESTS = (
    Column("NUMBER", right=True),
    Column("CLIENT", min_width=10),
    Column("CONSUMER"),
    Column("REQUEST", min_width=16),
    Column("CLASS", drop_priority=2),
    Column("STATE"),
    Column("AGE", right=True),
    Column("SENT", right=True, drop_priority=3),
    Column("WAITS FOR", drop_priority=1, min_width=16),
)


def state_lines(state: Entry, now_usec: int, theme: Theme) -> list[Text]:
    """The lines of ``gpumanctl gateway status``.

    Args:
        state: the document ``state`` of the gateway.
        now_usec: the current time.
        theme: width and characters.
    """
    gateway, requests = state.get("gateway", {}), state.get("requests", [])
    listeners = gateway.get("listeners", [])
    waiting = sum(1 for one in requests if one.get("state") == "waiting")
    jobs = sum(1 for one in requests if one.get("state") == "job")
    number = int(state.get("request_count", len(requests))) - jobs
    summary = f"{count(len(listeners), 'listener')}, {count(number, 'request')} in flight, {waiting} waiting"
    summary += f", {count(jobs, 'job')} held" if jobs else ""
    since = ago(int(gateway.get("started_usec", now_usec)), now_usec)
    lines = [Text(f"gpumand-gateway {clean(gateway.get('version', ''))}, started {since}: {summary}")]
    if absence := state.get("gpumand", {}).get("absence"):
        lines.append(Text(f"gpumand does not answer: {clean(absence)}"))
    for part in (listener_lines(listeners, theme), request_lines(requests, now_usec, theme)):
        lines += [Text(""), *part] if part else []
    return lines


def listener_lines(listeners: Sequence[Entry], theme: Theme) -> list[Text]:
    """A table of listeners; empty without listeners."""
    rows = [[clean(one.get(key, "")) for key in ("name", "consumer", "address")] for one in listeners]
    return table(_LISTENERS, rows, theme)


def request_lines(requests: Sequence[Entry], now_usec: int, theme: Theme) -> list[Text]:
    """A table of requests; empty without requests."""
    return table(_REQUESTS, [_request(one, now_usec) for one in requests], theme)


def _request(one: Entry, now_usec: int) -> list[str]:
    sent = int(one.get("sent_bytes", 0))
    return [
        str(one.get("number", "")),
        clean(one.get("client", "")),
        clean(one.get("consumer", "")),
        clean(f"{one.get('method', '')} {one.get('path', '')}"),
        clean(one.get("class", "")),
        clean(one.get("state", "")),
        usec(max(0, now_usec - int(one.get("began_usec", now_usec)))),
        _size(sent) if sent else "",
        clean(one.get("waits_for", "")),
    ]


def _size(octets: int) -> str:
    return f"{octets} B" if octets < 1024 else f"{octets / 1024:.0f} KiB" if octets < 1 << 20 else f"{octets >> 20} MiB"
