"""The tables of the screen: one line for each row, after a heading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from gpumand.cli.render.format import NOTHING, ago, clean, mib, usec, user_name
from gpumand.cli.render.graph import graph
from gpumand.cli.render.history import history_lines
from gpumand.cli.render.lines import lease_end, lease_notes
from gpumand.cli.render.reservation import lease_label
from gpumand.cli.render.residency import memory_note, shown_state
from gpumand.cli.render.status import last_used
from gpumand.cli.render.table import Column, table
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import RESIDENCY_STYLES, Theme
from gpumand.cli.top.sections import Row
from gpumand.domain.short_ids import short_id

Entry = Mapping[str, Any]

BAR_WIDTH = 10
"""Characters of the bar of a lease's remaining time."""

LOW_SHARE = 0.1
"""A lease with less than this share of its time left is marked."""

USEC_PER_SEC = 1_000_000


def consumer_table(rows: Sequence[Row], now_usec: int, theme: Theme, graph_width: int) -> list[Text]:
    """The consumers, each with a graph of its memory over the last readings.

    Args:
        graph_width: characters of each graph; 0 = none.
    """
    columns = (
        Column("CONSUMER", min_width=12, is_name=True),
        Column("STATE"),
        Column("GPU", drop_priority=4),
        Column("VRAM", right=True),
        Column("FOOTPRINT", right=True, drop_priority=3),
        Column("HISTORY", drop_priority=2),
        Column("LEASES", right=True),
        Column("LAST USED", drop_priority=5),
        Column("RUNS IN", drop_priority=6),
        Column("NOTE", min_width=22),
    )
    return table(columns, [_consumer(row.entry, now_usec, theme, graph_width) for row in rows], theme)


def _consumer(consumer: Entry, now_usec: int, theme: Theme, graph_width: int) -> list[Text | str]:
    state, used = shown_state(consumer), consumer.get("used_mib")
    return [
        clean(consumer["name"]),
        Text(state, style=RESIDENCY_STYLES.get(state, "")),
        clean(consumer.get("device") or NOTHING),
        mib(used) if used or state != "unloaded" else NOTHING,
        mib(consumer.get("vram_resident_mib")),
        Text(memory_graph(consumer, graph_width, theme), style="cyan"),
        str(consumer["leases"] or NOTHING),
        last_used(consumer, now_usec),
        clean(f"container {consumer['container']}" if consumer.get("container") else consumer.get("unit") or ""),
        _note(consumer),
    ]


def memory_graph(consumer: Entry, width: int, theme: Theme) -> str:
    """The memory of a consumer over the last readings, against its peak; "" where it has held none."""
    values = [int(value) for value in consumer.get("used_mib_history") or ()]
    highest = max(values, default=0)
    return graph(values, highest, width, 1, unicode=theme.unicode)[0] if highest > 0 and width else ""


def _note(consumer: Entry) -> Text:
    """The operation in progress, flags, an unusual amount of memory, and the error."""
    flags = (("busy", "busy"), ("pinned", "pinned"), ("vram_managed", "manages own VRAM"))
    words = [Text(clean(consumer.get("doing") or ""), style="yellow")]
    words += [Text(word) for flag, word in flags if consumer.get(flag)]
    words += [Text(memory_note(consumer)), Text(clean(consumer.get("error") or ""), style="red")]
    note = Text()
    for word in filter(None, words):
        note = note + "; " + word if note else word
    return note


def lease_table(rows: Sequence[Row], now_usec: int, theme: Theme) -> list[Text]:
    """The leases: short id, user and program of the holder, and the remaining time as a bar."""
    columns = (
        Column("LEASE"),
        Column("CONSUMER", min_width=12),
        Column("USER", min_width=10),
        Column("PROGRAM", min_width=15),
        Column("REMAINING"),
        Column("GPU", drop_priority=3),
        Column("SINCE", drop_priority=2),
        Column("HELD BY", drop_priority=4),
        Column("VRAM", right=True, drop_priority=1),
        Column("REASON", min_width=8),
    )
    ids = [row.key for row in rows]
    return table(columns, [_lease(row.entry, ids, now_usec, theme) for row in rows], theme)


def _lease(lease: Entry, ids: Sequence[str], now_usec: int, theme: Theme) -> list[Text | str]:
    notes = [clean(lease.get("reason") or ""), *lease_notes(lease), clean(lease.get("degraded") or "")]
    return [
        clean(short_id(str(lease["id"]), ids)),
        lease_label(lease),
        user_of(lease),
        clean(lease.get("owner_program") or lease.get("program") or lease.get("owner") or NOTHING),
        remaining(lease, now_usec, theme),
        clean(lease.get("device") or NOTHING),
        ago(int(lease["granted_usec"]), now_usec),
        clean(lease.get("owner") or NOTHING),
        mib(lease["used_mib"]) if lease.get("used_mib") is not None else "",
        ", ".join(filter(None, notes)),
    ]


def user_of(entry: Entry) -> str:
    """The user of a lease or a request: by name, else by number."""
    uid = entry.get("owner_uid")
    return clean(entry.get("owner_user") or (NOTHING if uid is None else f"uid {uid}"))


def remaining(lease: Entry, now_usec: int, theme: Theme) -> Text:
    """The remaining time as a bar and as text; only the text where a lease ends with an event."""
    end = lease_end(lease, now_usec)
    if not lease.get("expires_usec"):
        return Text(end or NOTHING)
    whole = max(1, int(lease["expires_usec"]) - int(lease["granted_usec"]))
    share = min(1.0, max(0.0, (int(lease["expires_usec"]) - now_usec) / whole))
    full, style = round(share * BAR_WIDTH), "red" if share < LOW_SHARE else "green"
    marks = ("█", "░") if theme.unicode else ("#", "-")
    bar = (marks[0] * full, style), (marks[1] * (BAR_WIDTH - full), "bright_black")
    return Text.assemble(*bar, " ", end.removeprefix("in "))


def queue_table(rows: Sequence[Row], theme: Theme) -> list[Text]:
    """The waiting requests."""
    columns = (
        Column("POS", right=True),
        Column("WANTS", min_width=8),
        Column("USER", min_width=10),
        Column("PROGRAM", drop_priority=2, min_width=12),
        Column("WAITED", right=True),
        Column("PRIORITY", right=True, drop_priority=3),
        Column("ID", drop_priority=4),
        Column("WAITING FOR", min_width=36),
        Column("REASON", drop_priority=5, min_width=8),
    )
    ids = [str(row.entry.get("id", "")) for row in rows]
    return table(columns, [_waiting(row.entry, ids) for row in rows], theme)


def _waiting(waiting: Entry, ids: Sequence[str]) -> list[Text | str]:
    return [
        str(waiting["position"]),
        lease_label(waiting),
        user_of(waiting),
        clean(waiting.get("owner_program") or ""),
        usec(int(waiting["waited_usec"])),
        str(waiting["priority"]),
        clean(short_id(str(waiting.get("id", "")), ids)),
        clean(waiting["waiting_for"]),
        clean(waiting.get("reason") or ""),
    ]


def process_table(rows: Sequence[Row], leases: Sequence[Entry], theme: Theme) -> list[Text]:
    """The processes that hold memory: of consumers, of reservations and others."""
    columns = (
        Column("PID", right=True),
        Column("USER", min_width=10),
        Column("GPU", drop_priority=3),
        Column("VRAM", right=True),
        Column("CPU", right=True, drop_priority=2),
        Column("RAM", right=True, drop_priority=4),
        Column("BELONGS TO", min_width=10),
        Column("RUNS IN", drop_priority=5),
        Column("COMMAND", min_width=24),
    )
    ids = [str(one["id"]) for one in leases]
    return table(columns, [_process(row.entry, ids) for row in rows], theme)


def _process(process: Entry, lease_ids: Sequence[str]) -> list[Text | str]:
    facts = process.get("facts")
    uid = process.get("uid", facts.uid if facts is not None else None)
    cpu = NOTHING if facts is None or facts.cpu_percent is None else f"{facts.cpu_percent:.0f} %"
    return [
        str(process.get("pid") or NOTHING),
        clean(process.get("user") or (NOTHING if uid is None else user_name(int(uid)))),
        clean(process["device"]),
        mib(process.get("used_mib")),
        cpu,
        NOTHING if facts is None else mib(facts.ram_mib),
        holder_of(process, lease_ids),
        clean(f"container {process['container']}" if process.get("container") else process.get("unit") or ""),
        command_of(process),
    ]


def holder_of(process: Entry, lease_ids: Sequence[str]) -> Text:
    """What a process belongs to: its consumers, the lease of its reservation, or nothing that gpumand manages."""
    if process.get("consumers"):
        return Text(", ".join(clean(one) for one in process["consumers"]))
    if process.get("lease"):
        return Text(f"lease {clean(short_id(str(process['lease']), lease_ids))}")
    return Text("foreign", style="bright_black")


def command_of(process: Entry) -> str:
    """The command line where the user may read it, else the short name."""
    facts = process.get("facts")
    whole = f"all of {process.get('unit')}" if not process.get("pid") and process.get("unit") else ""
    return clean((facts.command if facts else "") or process.get("name") or whole or NOTHING)


def event_table(rows: Sequence[Row], now_usec: int, theme: Theme) -> list[Text]:
    """The last evictions."""
    return history_lines([row.entry for row in rows], now_usec, replace(theme, legend=True)) if rows else []
