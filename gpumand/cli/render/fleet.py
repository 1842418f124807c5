"""Output of ``gpumanctl --fleet``: hosts, plans and loads."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from gpumand.cli.render.format import NOTHING, about, ago, clean, count, mib, usec
from gpumand.cli.render.table import Column, table
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import RESIDENCY_STYLES, VERDICT_STYLES, Theme
from gpumand.cli.render.wrap import wrapped

Entry = Mapping[str, Any]

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
    hosts = fleet.get("hosts") or []
    lines = _head(fleet, hosts, theme)
    lines += [Text(), *table(HOST_COLUMNS, [_host(one) for one in hosts], theme)] if hosts else []
    for one in hosts:
        if one.get("why"):
            lines += wrapped(f"{clean(_row(one).get('name'))}: {clean(one['why'])}", theme, style="bold yellow")
    leases = [_lease(host, one, now_usec) for host in hosts for one in host.get("leases") or ()]
    return lines + ([Text(), *table(LEASE_COLUMNS, leases, theme)] if leases else [])


def _lease(host: Entry, lease: Entry, now_usec: int) -> list[Text | str]:
    """A lease older than two seconds; shorter ones are only counted."""
    since, name = _number(lease, "since"), clean(_row(host).get("name") or "")
    via = clean(lease.get("via") or "")
    return [
        name,
        clean(lease.get("consumer") or "reservation"),
        clean(lease.get("owner") or "") or NOTHING,
        ago(since, now_usec) if since else NOTHING,
        via if via and via != name else NOTHING,
        clean(lease.get("reason") or ""),
    ]


def _head(fleet: Entry, hosts: Sequence[Entry], theme: Theme) -> list[Text]:
    degraded = clean(fleet.get("degraded") or "")
    up = sum(one.get("state") == "up" for one in hosts)
    known = [one for one in hosts if one.get("state") != "lost"]  # the row of a lost host says what it last had
    consumers = [one for host in known for one in _consumers(host).values()]
    loaded = sum(one.get("r") == "resident" for one in consumers)
    words = [f"{up} of {count(len(hosts), 'host')} up", f"{count(loaded, 'consumer')} resident"]
    words.append(count(sum(map(_leases, consumers)), "lease"))
    waiting = sum(_number(_row(one), "queue") for one in known)
    words += [f"{waiting} waiting"] if waiting else []
    line = Text.assemble((theme.dot, "yellow" if degraded or up < len(hosts) else "green"), " fleet: ")
    lines = [line + Text(", ".join(words))]
    if degraded:
        lines += wrapped(f"degraded: {degraded}", theme, rest="    ", style="bold yellow")
    return lines


def _host(host: Entry) -> list[Text | str]:
    row, state = _row(host), clean(host.get("state") or "")
    name = Text.assemble(
        (clean(row.get("name") or row.get("id") or ""), "bold"), " (here)" if host.get("local") else ""
    )
    gpus = row.get("gpus") or []
    leases = sum(map(_leases, _consumers(host).values()))
    return [
        name,
        Text(state, STATE_STYLES.get(state, "")),
        _sum(gpus, "free"),
        _sum(gpus, "total"),
        _loaded(host),
        str(leases) if leases else NOTHING,
        str(_number(row, "queue") or NOTHING),
        clean(row.get("version") or ""),
    ]


def _loaded(host: Entry) -> Text:
    """The consumers that are loaded or being loaded, resident ones first."""
    line = Text()
    found = {name: one for name, one in _consumers(host).items() if one.get("r") in SHOWN}
    for name, one in sorted(found.items(), key=lambda pair: (SHOWN.index(pair[1]["r"]), pair[0])):
        residency = one["r"]
        line.append(", " if line.plain else "")
        line.append(clean(name), RESIDENCY_STYLES.get(residency, ""))
        line.append("" if residency == "resident" else f" ({residency})")
    return line if line.plain else Text(NOTHING)


def _sum(gpus: Sequence[Entry], key: str) -> str:
    """The memory of all GPUs; "-" if that of one is unknown, which is not 0."""
    known = [one.get(key) for one in gpus]
    return mib(sum(known)) if known and all(isinstance(one, int) for one in known) else NOTHING  # type: ignore[arg-type]


def plan_lines(plan: Entry, theme: Theme) -> list[Text]:
    """Where a request would be served, and what each host says."""
    best: Entry = next((one for one in plan.get("hosts") or () if one.get("host") == plan.get("host")), {})
    line = Text.assemble((clean(plan.get("consumer")), "bold"), f": {clean(plan.get('host'))}", _when(best))
    lines = [line]
    if plan.get("degraded"):
        lines += wrapped(f"degraded: {clean(plan['degraded'])}", theme, rest="    ", style="bold yellow")
    for one in plan.get("hosts") or ():
        lines += _host_plan(one, theme)
    return lines


def _when(host: Entry) -> str:
    expected = host.get("expected_sec")
    if not isinstance(expected, int | float):
        return ""
    return f", in about {about(expected)}" if expected >= 0.5 else ", at once"


def _host_plan(host: Entry, theme: Theme) -> list[Text]:
    answer = host.get("plan") or {}
    verdict = clean(answer.get("verdict") or "refuse")
    words = {"grant": "would grant it", "wait": "would wait"}.get(verdict, "would refuse it")
    line = Text.assemble("  ", (clean(host.get("host")), "bold"), " ", (words, VERDICT_STYLES.get(verdict, "")))
    line.append(f" ({clean(host.get('residency') or 'unknown')}){_when(host)}")
    message = clean(host.get("message") or answer.get("message") or "")
    return [line, *(wrapped(message, theme, first="    ") if message else [])]


def load_line(consumer: str, outcome: Entry) -> str:
    """The result of a load."""
    where = f"{clean(consumer)} is loaded on {clean(outcome.get('host') or 'a host')}"
    took = outcome.get("load_usec") or outcome.get("took_usec")
    return f"{where}, in {usec(took)}" if isinstance(took, int) else where


def grant_line(consumer: str, grant: Entry) -> str:
    """The result of an acquire, for people."""
    endpoint = f" at {clean(grant['endpoint'])}" if grant.get("endpoint") else ""
    return f"{clean(consumer)} is leased on {clean(grant.get('host') or 'a host')}{endpoint}"


def _row(host: Entry) -> Entry:
    row = host.get("row")
    return row if isinstance(row, dict) else {}


def _consumers(host: Entry) -> Mapping[str, Entry]:
    found = _row(host).get("consumers")
    return found if isinstance(found, dict) else {}


def _leases(consumer: Entry) -> int:
    return _number(consumer, "leases")


def _number(fields: Entry, name: str) -> int:
    value = fields.get(name)
    return value if isinstance(value, int) else 0
