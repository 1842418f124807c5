"""``status`` and ``list``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpumand.cli.render.bar import bar, key, shares
from gpumand.cli.render.format import NOTHING, ago, ahead, clean, count, mib, usec
from gpumand.cli.render.lines import awaits_request
from gpumand.cli.render.table import Column, table
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import RESIDENCY_STYLES, Theme
from gpumand.cli.render.wrap import wrapped

Entry = Mapping[str, Any]

MOST_FOREIGN = 4
"""Foreign processes that are named under a device's bar."""


def status_lines(status: Entry, now_usec: int, look: Theme) -> list[Text]:
    """The whole picture: devices, consumers, leases, queue, counters."""
    consumers = status["consumers"]
    blocks = [
        head(status, look),
        *(device_lines(device, consumers, look) for device in status["devices"]),
        consumer_lines(consumers, now_usec, look),
        lease_lines(status["leases"], now_usec, look),
        queue_lines(status["queue"], look),
        stats_lines(status["stats"], look),
    ]
    lines: list[Text] = []
    for block in blocks:
        if block:
            lines += [Text(), *block] if lines else block
    return lines


def head(status: Entry, look: Theme) -> list[Text]:
    """One line of state, and one more when the daemon is degraded."""
    degraded = clean(status["degraded"])
    resident = sum(1 for consumer in status["consumers"] if consumer["residency"] == "resident")
    words = [f"{resident} of {count(len(status['consumers']), 'consumer')} resident"]
    words.append(count(len(status["leases"]), "lease"))
    if status["queue"]:
        words.append(f"{len(status['queue'])} waiting")
    line = Text.assemble((look.dot, "yellow" if degraded else "green"), f" gpumand {clean(status['version'])}: ")
    lines = [line + Text(", ".join(words))]
    if degraded:
        lines += wrapped(f"degraded: {degraded}", look, rest="    ", style="bold yellow")
    return lines


def device_lines(device: Entry, consumers: Sequence[Entry], look: Theme) -> list[Text]:
    """A device: what it is, its bar, and what the bar shows."""
    lines = device_title(device, look)
    if device.get("error"):
        lines += wrapped(clean(device["error"]), look, style="bold yellow")
    if device.get("total_mib"):
        parts = shares(device, consumers)
        lines += [bar(device, parts, look), *key(device, parts, look)]
    return lines + foreign_lines(device, look)


def device_title(device: Entry, look: Theme) -> list[Text]:
    """What a device is and how much of it is used, on one line where that fits."""
    name = clean(device.get("name") or "unnamed device")
    title = Text.assemble((f"GPU {device['index']}", "bold"), f"  {name} ({clean(device.get('source') or NOTHING)})")
    figures = Text(f"  {_figures(device)}")
    return [title + figures] if title.cell_len + figures.cell_len <= look.width else [title, figures]


def foreign_lines(device: Entry, look: Theme) -> list[Text]:
    """Who holds memory and is no consumer, the largest by name."""
    known = [one for one in device.get("foreign") or () if one.get("used_mib")]
    words = [f"{mib(one['used_mib'])} by {_stranger(one)}" for one in known[:MOST_FOREIGN]]
    more = len(known) - len(words)
    words += [f"and {more} more"] if more > 0 else []
    return wrapped(f"foreign: {', '.join(words)}", look, style="bright_black") if words else []


def _stranger(process: Entry) -> str:
    """``firefox (user alice, unit session-2.scope, pid 4711)``."""
    user = process.get("user") or process.get("uid")
    known = (("user", user), ("unit", process.get("unit")), ("pid", process.get("pid")))
    details = ", ".join(f"{what} {clean(str(which))}" for what, which in known if which not in (None, ""))
    return f"{clean(process.get('name') or 'a process')} ({details})"


def _figures(device: Entry) -> str:
    total, used = device.get("total_mib"), device.get("used_mib")
    if total is None:
        return "memory unknown"
    if used is None:
        return f"{mib(total)}, use unknown"
    return f"{mib(used)} of {mib(total)} used"


def consumer_lines(consumers: Sequence[Entry], now_usec: int, look: Theme) -> list[Text]:
    """A line a consumer, and below them a line for each that has a problem."""
    if not consumers:
        return [Text("No consumers are configured.")]
    lines = consumer_table(consumers, now_usec, look)
    for consumer in consumers:
        if consumer.get("error"):
            problem = f"{clean(consumer['name'])}: {clean(consumer['error'])}"
            lines += wrapped(problem, look, rest="    ", style="red")
    return lines


def consumer_table(consumers: Sequence[Entry], now_usec: int, look: Theme) -> list[Text]:
    """The heading where one is wanted, then exactly one line a consumer."""
    columns = (
        Column("CONSUMER", least=8),
        Column("STATE"),
        Column("GPU", wanted=2),
        Column("VRAM", right=True),
        Column("FOOTPRINT", right=True, wanted=1),
        Column("LEASES", right=True),
        Column("LAST USED", wanted=3),
        Column("NOTE", least=20),
    )
    return table(columns, [_consumer_row(consumer, now_usec) for consumer in consumers], look)


def _consumer_row(consumer: Entry, now_usec: int) -> list[Text | str]:
    residency = clean(consumer["residency"])
    used = consumer.get("used_mib")
    return [
        clean(consumer["name"]),
        Text(residency, style=RESIDENCY_STYLES.get(residency, "")),
        clean(consumer.get("device") or NOTHING),
        mib(used) if used or residency != "unloaded" else NOTHING,
        mib(consumer.get("vram_resident_mib")),
        str(consumer["leases"] or NOTHING),
        last_used(consumer, now_usec),
        _note(consumer),
    ]


def last_used(consumer: Entry, now_usec: int) -> str:
    """When it was last used: the figure is set when a lease ends, and whoever has one uses it now."""
    return "now" if consumer.get("leases") else ago(consumer.get("last_used_usec") or 0, now_usec)


def _note(consumer: Entry) -> Text:
    """What else is worth knowing: what is being done, what was set by hand; errors have lines of their own."""
    note = Text(clean(consumer.get("doing") or ""), style="yellow")
    for flag, word in (("busy", "busy"), ("pinned", "pinned"), ("vram_managed", "manages its VRAM")):
        if consumer.get(flag):
            note.append(("; " if note else "") + word)
    if awaits_request(consumer):
        note.append(("; " if note else "") + "loads on first request")
    return note


def list_lines(consumers: Sequence[Entry], now_usec: int, look: Theme) -> list[Text]:
    """``list``: the consumers with their units, and nothing else."""
    if not consumers and look.legend:
        return [Text("No consumers are configured.")]
    columns = (
        Column("CONSUMER", least=8),
        Column("STATE"),
        Column("GPU", wanted=1),
        Column("FOOTPRINT", right=True),
        Column("LAST USED", wanted=2),
        Column("PINNED", wanted=3),
        Column("UNIT", least=8),
    )
    rows: list[list[Text | str]] = []
    for consumer in consumers:
        name, residency, device, _, footprint, _, used, _ = _consumer_row(consumer, now_usec)
        pinned = "yes" if consumer.get("pinned") else "no"
        rows.append([name, residency, device, footprint, used, pinned, clean(consumer.get("unit") or NOTHING)])
    return table(columns, rows, look)


def lease_lines(leases: Sequence[Entry], now_usec: int, look: Theme) -> list[Text]:
    """A line a lease."""
    columns = (
        Column("LEASE"),
        Column("CONSUMER", least=8),
        Column("GPU", wanted=4),
        Column("OWNER", wanted=1, least=12),
        Column("ENDS"),
        Column("SINCE", wanted=3),
        Column("REASON", wanted=2, least=12),
    )
    rows = [
        [
            clean(lease["id"]),
            clean(lease["consumer"]),
            clean(lease.get("device") or NOTHING),
            clean(lease.get("owner") or f"uid {lease['owner_uid']}"),
            _ends(lease, now_usec),
            ago(lease["granted_usec"], now_usec),
            clean(lease.get("reason") or ""),
        ]
        for lease in leases
    ]
    return table(columns, rows, look)


def _ends(lease: Entry, now_usec: int) -> str:
    """When, or with what, a lease ends."""
    if lease.get("expires_usec"):
        return ahead(lease["expires_usec"], now_usec)
    return {"connection": "with its owner", "unit": "with its unit"}.get(lease["lifetime"], NOTHING)


def queue_lines(queue: Sequence[Entry], look: Theme) -> list[Text]:
    """A line a waiting request."""
    columns = (
        Column("PLACE", right=True),
        Column("WANTS", least=8),
        Column("PRIORITY", right=True, wanted=2),
        Column("SO FAR", right=True),
        Column("USER", wanted=1),
        Column("WHY", least=40),
        Column("REASON", wanted=3, least=12),
    )
    rows = [
        [
            str(waiting["position"]),
            clean(waiting["consumer"]),
            str(waiting["priority"]),
            usec(waiting["waited_usec"]),
            f"uid {waiting.get('owner_uid', NOTHING)}",
            clean(waiting["waiting_for"]),
            clean(waiting.get("reason") or ""),
        ]
        for waiting in queue
    ]
    return table(columns, rows, look)


def stats_lines(stats: Entry, look: Theme) -> list[Text]:
    """What happened since the daemon started, in one line."""
    words = [
        count(stats.get("grants", 0), "grant"),
        count(stats.get("refusals", 0), "refusal"),
        _with_mean(count(stats.get("loads", 0), "load"), stats, "load_usec", "loads"),
        _with_mean(count(stats.get("evictions", 0), "eviction"), stats, "unload_usec", "evictions"),
    ]
    for counter, word in (("load_failures", "failed load"), ("eviction_failures", "failed eviction")):
        if stats.get(counter):
            words.append(count(stats[counter], word))
    return wrapped(f"since start: {', '.join(words)}", look, first="", rest="  ", style="bright_black")


def _with_mean(text: str, stats: Entry, total: str, number: str) -> str:
    """The count with the mean duration behind it, where there is one."""
    if not stats.get(number) or not stats.get(total):
        return text
    return f"{text} (mean {usec(stats[total] // stats[number])})"
