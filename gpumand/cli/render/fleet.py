"""Output of ``gpumanctl --fleet``: hosts, plans and loads.

The answers come from the agent of this host, but much in them is from other hosts, and the agent can have another
version: whatever is not of the expected type or size is left out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from gpumand.cli.render.format import NOTHING, about, ago, clean, count, mib, usec
from gpumand.cli.render.table import Column, table
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import RESIDENCY_STYLES, VERDICT_STYLES, Theme
from gpumand.cli.render.wrap import wrapped
from gpumand.fleet.json_fields import MAX_MESSAGE, is_integer, is_number

Entry = Mapping[str, Any]

MAX_HOSTS, MAX_LEASES, MAX_GPUS, MAX_CONSUMERS = 1024, 4096, 64, 4096
MAX_TEXT = 255

STATE_STYLES = {"up": "green", "drained": "yellow", "lost": "bold red"}
SHOWN = ("resident", "loading", "unloading", "parked", "failed")
"""Residencies that a host's line names."""

HOST_COLUMNS = (
    Column("HOST", min_width=6),
    Column("STATE"),
    Column("FREE", right=True),
    Column("TOTAL", right=True, drop_priority=3),
    Column("LOADED", min_width=12),
    Column("LEASES", right=True, drop_priority=1),
    Column("QUEUE", right=True, drop_priority=2),
    Column("VERSION", drop_priority=4),
)


LEASE_COLUMNS = (
    Column("HOST", min_width=6),
    Column("LEASED", min_width=8),
    Column("OWNER", drop_priority=2, min_width=12),
    Column("SINCE", drop_priority=3),
    Column("VIA", drop_priority=4),
    Column("REASON", drop_priority=1, min_width=12),
)


def fleet_lines(fleet: Entry, theme: Theme, now_usec: int | None = None) -> list[Text]:
    """A summary line, a line for each host, and one for each lease that the hosts publish.

    Args:
        fleet: the hosts, as gpumand-fleet shows them.
        theme: how to draw them.
        now_usec: CLOCK_REALTIME; None = now.
    """
    now_usec = time.time_ns() // 1000 if now_usec is None else now_usec
    hosts = entries(fleet, "hosts", MAX_HOSTS)
    lines = _head(fleet, hosts, theme)
    lines += [Text(), *table(HOST_COLUMNS, [_host(one) for one in hosts], theme)] if hosts else []
    for one in hosts:
        if why := text(one, "why", MAX_MESSAGE):
            lines += wrapped(f"{_name(one)}: {why}", theme, style="bold yellow")
    leases = [_lease(host, one, now_usec) for host in hosts for one in entries(host, "leases", MAX_LEASES)]
    return lines + ([Text(), *table(LEASE_COLUMNS, leases, theme)] if leases else [])


def _lease(host: Entry, lease: Entry, now_usec: int) -> list[Text | str]:
    """A lease older than two seconds; shorter ones are only counted."""
    since, name, via = number(lease, "since"), _name(host), text(lease, "via")
    return [
        name,
        text(lease, "consumer") or "reservation",
        text(lease, "owner") or NOTHING,
        ago(since, now_usec) if since else NOTHING,
        via if via and via != name else NOTHING,
        text(lease, "reason"),
    ]


def _head(fleet: Entry, hosts: Sequence[Entry], theme: Theme) -> list[Text]:
    degraded = text(fleet, "degraded", MAX_MESSAGE)
    up = sum(one.get("state") == "up" for one in hosts)
    known = [one for one in hosts if one.get("state") != "lost"]  # the row of a lost host says what it last had
    consumers = [one for host in known for one in _consumers(host).values()]
    loaded = sum(one.get("r") == "resident" for one in consumers)
    words = [f"{up} of {count(len(hosts), 'host')} up", f"{count(loaded, 'consumer')} resident"]
    words.append(count(sum(map(_leases, consumers)), "lease"))
    waiting = sum(number(_row(one), "queue") for one in known)
    words += [f"{waiting} waiting"] if waiting else []
    why = text(fleet, "why", MAX_MESSAGE)
    line = Text.assemble((theme.dot, "yellow" if degraded or why or up < len(hosts) else "green"), " fleet: ")
    lines = [line + Text(", ".join(words))]
    if degraded:
        lines += wrapped(f"degraded: {degraded}", theme, rest="    ", style="bold yellow")
    if why and why != degraded:
        lines += wrapped(f"this host: {why}", theme, rest="    ", style="bold yellow")
    return lines


def _host(host: Entry) -> list[Text | str]:
    row, state = _row(host), text(host, "state")
    name = Text.assemble((_name(host) or text(row, "id"), "bold"), " (here)" if host.get("local") is True else "")
    gpus = entries(row, "gpus", MAX_GPUS)
    leases = sum(map(_leases, _consumers(host).values()))
    return [
        name,
        Text(state, STATE_STYLES.get(state, "")),
        _sum(gpus, "free"),
        _sum(gpus, "total"),
        _loaded(host),
        str(leases) if leases else NOTHING,
        str(number(row, "queue") or NOTHING),
        text(row, "version"),
    ]


def _loaded(host: Entry) -> Text:
    """The consumers that are loaded or being loaded, resident ones first."""
    line = Text()
    found = {name: state for name, one in _consumers(host).items() if (state := text(one, "r")) in SHOWN}
    for name, residency in sorted(found.items(), key=lambda pair: (SHOWN.index(pair[1]), pair[0])):
        line.append(", " if line.plain else "")
        line.append(clean(name), RESIDENCY_STYLES.get(residency, ""))
        line.append("" if residency == "resident" else f" ({residency})")
    return line if line.plain else Text(NOTHING)


def _sum(gpus: Sequence[Entry], key: str) -> str:
    """The memory of all GPUs; "-" if that of one is unknown, which is not 0."""
    known = [number(one, key) for one in gpus if is_integer(one.get(key))]
    return mib(sum(known)) if known and len(known) == len(gpus) else NOTHING


def plan_lines(plan: Entry, theme: Theme) -> list[Text]:
    """Where a request would be served, and what each host says."""
    hosts = entries(plan, "hosts", MAX_HOSTS)
    best: Entry = next((one for one in hosts if one.get("host") == plan.get("host")), {})
    lines = [Text.assemble((text(plan, "consumer"), "bold"), f": {text(plan, 'host')}", _when(best))]
    if degraded := text(plan, "degraded", MAX_MESSAGE):
        lines += wrapped(f"degraded: {degraded}", theme, rest="    ", style="bold yellow")
    for one in hosts:
        lines += _host_plan(one, theme)
    return lines


def _when(host: Entry) -> str:
    expected = host.get("expected_sec")
    if not is_number(expected):
        return ""
    return f", in about {about(expected)}" if expected >= 0.5 else ", at once"


def _host_plan(host: Entry, theme: Theme) -> list[Text]:
    found = host.get("plan")
    answer: Entry = found if isinstance(found, dict) else {}
    verdict = text(answer, "verdict") or "refuse"
    words = {"grant": "would grant it", "wait": "would wait"}.get(verdict, "would refuse it")
    line = Text.assemble("  ", (text(host, "host"), "bold"), " ", (words, VERDICT_STYLES.get(verdict, "")))
    line.append(f" ({text(host, 'residency') or 'unknown'}){_when(host)}")
    message = text(host, "message", MAX_MESSAGE) or text(answer, "message", MAX_MESSAGE)
    return [line, *(wrapped(message, theme, first="    ") if message else [])]


def load_line(consumer: str, outcome: Entry) -> str:
    """The result of a load."""
    where = f"{clean(consumer)} is loaded on {text(outcome, 'host') or 'a host'}"
    took = number(outcome, "load_usec") or number(outcome, "took_usec")
    return f"{where}, in {usec(took)}" if took else where


def grant_line(consumer: str, grant: Entry) -> str:
    """The result of an acquire, for people."""
    endpoint = text(grant, "endpoint", MAX_MESSAGE)
    where = f"{clean(consumer)} is leased on {text(grant, 'host') or 'a host'}"
    return f"{where} at {endpoint}" if endpoint else where


def _row(host: Entry) -> Entry:
    row = host.get("row")
    return row if isinstance(row, dict) else {}


def _name(host: Entry) -> str:
    return text(_row(host), "name")


def _consumers(host: Entry) -> Mapping[str, Entry]:
    found = _row(host).get("consumers")
    pairs = list(found.items())[:MAX_CONSUMERS] if isinstance(found, dict) else []
    return {name: one for name, one in pairs if isinstance(one, dict)}


def _leases(consumer: Entry) -> int:
    return number(consumer, "leases")


def entries(fields: Entry, name: str, at_most: int) -> list[Entry]:
    """The objects in a list; [] where it is missing or no list."""
    found = fields.get(name)
    return [one for one in found[:at_most] if isinstance(one, dict)] if isinstance(found, list) else []


def text(fields: Entry, name: str, at_most: int = MAX_TEXT) -> str:
    """A text as it may be printed; "" where it is missing or no text."""
    found = fields.get(name)
    return clean(found[:at_most]) if isinstance(found, str) else ""


def number(fields: Entry, name: str) -> int:
    """A number from 0; 0 where it is missing or none."""
    found = fields.get(name)
    return found if is_integer(found) else 0
