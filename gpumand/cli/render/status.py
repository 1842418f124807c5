"""Output of ``status`` and ``list``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpumand.cli.render.bar import bar, counts_host_ram, legend, shares
from gpumand.cli.render.format import NOTHING, ago, clean, count, mib, usec
from gpumand.cli.render.lines import lease_end, lease_notes
from gpumand.cli.render.reservation import holder_label, lease_label
from gpumand.cli.render.residency import memory_note, shown_state
from gpumand.cli.render.table import Column, table
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import RESIDENCY_STYLES, Theme
from gpumand.cli.render.wrap import wrapped
from gpumand.domain.short_ids import short_id

Entry = Mapping[str, Any]

DRIVER_STATES = {
    "resting": "GPU driver closed (values of the last reading)",
    "asleep": "GPU asleep (values of the last reading)",
}
"""States of the driver in which the memory shown is not current."""

MIN_UNNAMED_MIB = 512
"""Less unnamed memory than this gets no line: contexts, and the driver itself."""

MAX_FOREIGN = 4
"""Maximum number of foreign processes that are named under a device's bar."""

NO_CONSUMERS = (
    "No consumers are configured. To find and add the services of this host: gpumanctl setup",
    "To see gpumand at work without any, with a simulated GPU: gpumanctl demo",
)
"""What the first command of a new user prints in place of a table."""


def status_lines(status: Entry, now_usec: int, theme: Theme) -> list[Text]:
    """The whole status: devices, consumers, leases, waiting requests and counters."""
    consumers = status["consumers"]
    blocks = [
        head(status, theme),
        *(device_lines(device, consumers, theme, status["leases"]) for device in status["devices"]),
        consumer_lines(consumers, now_usec, theme),
        lease_lines(status["leases"], now_usec, theme),
        queue_lines(status["queue"], theme),
        stats_lines(status["stats"], theme),
    ]
    lines: list[Text] = []
    for block in blocks:
        if block:
            lines += [Text(), *block] if lines else block
    return lines


def head(status: Entry, theme: Theme) -> list[Text]:
    """A summary line, and a warning when the daemon is degraded."""
    degraded = clean(status["degraded"])
    resident = sum(1 for consumer in status["consumers"] if shown_state(consumer) == "resident")
    words = [f"{resident} of {count(len(status['consumers']), 'consumer')} resident"]
    words.append(count(len(status["leases"]), "lease"))
    if status["queue"]:
        words.append(f"{len(status['queue'])} waiting")
    words += [DRIVER_STATES[status["driver_state"]]] if status.get("driver_state") in DRIVER_STATES else []
    line = Text.assemble((theme.dot, "yellow" if degraded else "green"), f" gpumand {clean(status['version'])}: ")
    lines = [line + Text(", ".join(words))]
    if degraded:
        lines += wrapped(f"degraded: {degraded}", theme, rest="    ", style="bold yellow")
    return lines


def device_lines(device: Entry, consumers: Sequence[Entry], theme: Theme, leases: Sequence[Entry] = ()) -> list[Text]:
    """A device: its name and memory use, its bar, the legend of the bar, and foreign processes."""
    lines = device_title(device, theme)
    if device.get("error"):
        lines += wrapped(clean(device["error"]), theme, style="bold yellow")
    if device.get("attribution_gap"):
        lines += wrapped(f"memory of services unknown: {clean(device['attribution_gap'])}", theme, style="yellow")
    if device.get("total_mib"):
        parts = shares(device, consumers, reservations=leases)
        lines += [bar(device, parts, theme), *legend(device, parts, theme)]
    return lines + foreign_lines(device, theme) + unnamed_lines(device, theme)


def device_title(device: Entry, theme: Theme) -> list[Text]:
    """The name and memory use of a device, on one line if the screen is wide enough."""
    name = clean(device.get("name") or "unnamed device")
    title = Text.assemble((f"GPU {device['index']}", "bold"), f"  {name} ({', '.join(device_properties(device))})")
    use = Text(f"  {memory_use(device)}")
    return [title + use] if title.cell_len + use.cell_len <= theme.width else [title, use]


def device_properties(device: Entry) -> list[str]:
    """The source of a device's readings, and what distinguishes it from a card with memory of its own."""
    pool = {"unified": "uses host RAM", "host": "host RAM"}.get(str(device.get("pool")), "")
    # A GPU that uses host RAM is nearly always integrated.
    integrated = "integrated" if device.get("integrated") and not pool else ""
    asleep = "asleep" if device.get("asleep") else ""
    return [clean(device.get("source") or NOTHING), *filter(None, (pool, integrated, asleep))]


def foreign_lines(device: Entry, theme: Theme) -> list[Text]:
    """The processes that hold memory and belong to no consumer; the largest are named."""
    known = [one for one in device.get("foreign") or () if one.get("used_mib")]
    words = [f"{mib(one['used_mib'])} by {_foreign_process(one)}" for one in known[:MAX_FOREIGN]]
    more = len(known) - len(words)
    words += [f"and {more} more"] if more > 0 else []
    return wrapped(f"foreign: {', '.join(words)}", theme, style="bright_black") if words else []


def unnamed_lines(device: Entry, theme: Theme) -> list[Text]:
    """The memory that the driver attributes to no process, where it is more than the driver's own."""
    unnamed = device.get("unnamed_mib")
    if unnamed is None or unnamed < MIN_UNNAMED_MIB:
        return []
    text = f"unnamed: {mib(unnamed)} in use by processes that the driver does not name"
    if counts_host_ram(device):
        text = f"host RAM: {mib(unnamed)} in use by other programs"
    return wrapped(text, theme, style="bright_black")


def _foreign_process(process: Entry) -> str:
    """A foreign process as text: ``firefox (user alice, unit session-2.scope, pid 4711)``."""
    user = process.get("user") or process.get("uid")
    if not process.get("pid") and process.get("unit"):  # the unit as a whole
        return f"processes of {clean(str(process['unit']))}"
    container = process.get("container")
    place = ("container", container) if container else ("unit", process.get("unit"))
    known = (("user", user), place, ("pid", process.get("pid") or ""))
    details = ", ".join(f"{what} {clean(str(which))}" for what, which in known if which not in (None, ""))
    return f"{clean(process.get('name') or 'a process')} ({details})"


def memory_use(device: Entry) -> str:
    """The memory in use of a device: ``16.3 GiB of 24.0 GiB used``."""
    total, used = device.get("total_mib"), device.get("used_mib")
    if total is None:
        return "memory unknown"
    if used is None:
        return f"{mib(total)}, usage unknown"
    return f"{mib(used)} of {mib(total)} used"


def consumer_lines(consumers: Sequence[Entry], now_usec: int, theme: Theme) -> list[Text]:
    """The table of consumers, and below it the errors of those that have one."""
    if not consumers:
        return [Text(line) for line in NO_CONSUMERS]
    lines = consumer_table(consumers, now_usec, theme)
    for consumer in consumers:
        if consumer.get("error"):
            problem = f"{clean(consumer['name'])}: {clean(consumer['error'])}"
            lines += wrapped(problem, theme, rest="    ", style="red")
    return lines


def consumer_table(consumers: Sequence[Entry], now_usec: int, theme: Theme) -> list[Text]:
    """The table of consumers: a heading if the theme has them, then exactly one line for each."""
    columns = (
        Column("CONSUMER", min_width=8, is_name=True),
        Column("STATE"),
        Column("GPU", drop_priority=2),
        Column("VRAM", right=True),
        Column("FOOTPRINT", right=True, drop_priority=1),
        Column("LEASES", right=True),
        Column("LAST USED", drop_priority=3),
        Column("NOTE", min_width=20),
    )
    return table(columns, [_consumer_row(consumer, now_usec) for consumer in consumers], theme)


def _consumer_row(consumer: Entry, now_usec: int) -> list[Text | str]:
    state = shown_state(consumer)
    used = consumer.get("used_mib")
    return [
        clean(consumer["name"]),
        Text(state, style=RESIDENCY_STYLES.get(state, "")),
        clean(consumer.get("device") or NOTHING),
        mib(used) if used or state != "unloaded" else NOTHING,
        mib(consumer.get("vram_resident_mib")),
        str(consumer["leases"] or NOTHING),
        last_used(consumer, now_usec),
        _note(consumer),
    ]


def last_used(consumer: Entry, now_usec: int) -> str:
    """When a consumer was last used, relative to now.

    The daemon sets the time when a lease ends, so a consumer under a lease counts as used now.
    """
    return "now" if consumer.get("leases") else ago(consumer.get("last_used_usec") or 0, now_usec)


def _note(consumer: Entry) -> Text:
    """The note column: the operation in progress, flags and memory. Errors are shown below the table."""
    note = Text(clean(consumer.get("doing") or ""), style="yellow")
    flags = (("busy", "busy"), ("pinned", "pinned"), ("vram_managed", "manages own VRAM"))
    for words in (*(word for flag, word in flags if consumer.get(flag)), memory_note(consumer)):
        if words:
            note.append(("; " if note else "") + words)
    return note


def list_lines(consumers: Sequence[Entry], now_usec: int, theme: Theme) -> list[Text]:
    """The table of ``list``: consumers with their units."""
    # Without headings the output is for scripts, where no consumer must mean no line.
    if not consumers and theme.legend:
        return [Text(line) for line in NO_CONSUMERS]
    columns = (
        Column("CONSUMER", min_width=8, is_name=True),
        Column("STATE"),
        Column("GPU", drop_priority=1),
        Column("FOOTPRINT", right=True),
        Column("LAST USED", drop_priority=2),
        Column("PINNED", drop_priority=3),
        Column("UNIT", min_width=8),
    )
    rows: list[list[Text | str]] = []
    for consumer in consumers:
        name, state, device, _, footprint, _, used, _ = _consumer_row(consumer, now_usec)
        pinned = "yes" if consumer.get("pinned") else "no"
        rows.append([name, state, device, footprint, used, pinned, clean(_service(consumer) or NOTHING)])
    return table(columns, rows, theme)


def _service(consumer: Entry) -> str:
    """Its unit, or else its container."""
    container = consumer.get("container")
    return str(consumer.get("unit") or (f"container {container}" if container else ""))


def lease_lines(leases: Sequence[Entry], now_usec: int, theme: Theme) -> list[Text]:
    """The table of leases."""
    columns = (
        Column("LEASE"),
        Column("CONSUMER", min_width=8),
        Column("GPU", drop_priority=4),
        Column("OWNER", drop_priority=1, min_width=12),
        Column("ENDS"),
        Column("SINCE", drop_priority=3),
        Column("REASON", drop_priority=2, min_width=12),
    )
    rows = [
        [
            clean(lease["id"]),
            lease_label(lease),
            clean(lease.get("device") or NOTHING),
            holder_label(lease),
            lease_end(lease, now_usec) or NOTHING,
            ago(lease["granted_usec"], now_usec),
            ", ".join(filter(None, [clean(lease.get("reason") or ""), *lease_notes(lease)])),
        ]
        for lease in leases
    ]
    return table(columns, rows, theme)


def queue_lines(queue: Sequence[Entry], theme: Theme) -> list[Text]:
    """The table of waiting requests."""
    columns = (
        Column("POS", right=True),
        Column("CONSUMER", min_width=8),
        Column("PRIORITY", right=True, drop_priority=2),
        Column("WAITED", right=True),
        Column("USER", drop_priority=1),
        Column("WAITING FOR", min_width=40),
        Column("REASON", drop_priority=3, min_width=12),
        Column("ID", drop_priority=4),
    )
    ids = [str(one.get("id", "")) for one in queue]
    rows = [
        [
            str(waiting["position"]),
            lease_label(waiting),
            str(waiting["priority"]),
            usec(waiting["waited_usec"]),
            clean(waiting.get("owner_user") or f"uid {waiting.get('owner_uid', NOTHING)}"),
            clean(waiting["waiting_for"]),
            clean(waiting.get("reason") or ""),
            clean(short_id(str(waiting.get("id", "")), ids)),
        ]
        for waiting in queue
    ]
    return table(columns, rows, theme)


def stats_lines(stats: Entry, theme: Theme) -> list[Text]:
    """Counters since the daemon started, in one line."""
    words = [
        count(stats.get("grants", 0), "grant"),
        count(stats.get("refusals", 0), "refusal"),
        _with_mean(count(stats.get("loads", 0), "load"), stats, "load_usec", "loads"),
        _with_mean(count(stats.get("evictions", 0), "eviction"), stats, "unload_usec", "evictions"),
    ]
    for counter, word in (("load_failures", "failed load"), ("eviction_failures", "failed eviction")):
        if stats.get(counter):
            words.append(count(stats[counter], word))
    return wrapped(f"since start: {', '.join(words)}", theme, first="", rest="  ", style="bright_black")


def _with_mean(text: str, stats: Entry, total: str, number: str) -> str:
    """The counter with the mean duration of its events appended, if it is known."""
    if not stats.get(number) or not stats.get(total):
        return text
    return f"{text} (mean {usec(stats[total] // stats[number])})"
