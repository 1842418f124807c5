"""Output of ``show``: everything about one consumer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpumand.cli.render.format import clean, count, gpus, mib, usec
from gpumand.cli.render.history import history_lines
from gpumand.cli.render.plan import plan_lines
from gpumand.cli.render.residency import ON_FIRST_REQUEST, memory_note, shown_state
from gpumand.cli.render.status import last_used, lease_lines, queue_lines
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import RESIDENCY_STYLES, Theme
from gpumand.cli.render.wrap import wrapped
from gpumand.domain.footprint import Footprint

Entry = Mapping[str, Any]

LABEL_WIDTH = 12

STARTS = {"cold": "from a cold start", "parked": "with its server running"}
"""Text for the kinds of load whose durations are measured separately."""


def show_lines(shown: Entry, now_usec: int, theme: Theme) -> list[Text]:
    """The properties of a consumer, then its leases, waiting requests, recent history and a plan for a request now.

    Args:
        shown: entries "consumer", "learned", "leases", "queue", "history" and "plan", as the daemon answers them.
        now_usec: the current time, for relative times such as "3 min ago".
        theme: of the screen.
    """
    consumer, learned = shown["consumer"], shown["learned"]
    lines = [_head(consumer, theme)]
    for label, text, style in _facts(consumer, learned, now_usec):
        start = f"  {label:<{LABEL_WIDTH}}"
        lines += wrapped(text, theme, first=start, rest=" " * len(start), style=style)
    for title, block in (
        ("Leases", lease_lines(shown["leases"], now_usec, theme)),
        ("Waiting requests", queue_lines(shown["queue"], theme)),
        ("Recent history", history_lines(shown["history"], now_usec, theme) if shown["history"] else []),
        ("If requested now", plan_lines(shown["plan"], theme) if shown["plan"].get("verdict") else []),
    ):
        lines += [Text(), Text(f"{title}:", style="bold"), *block] if block else []
    return lines


def _head(consumer: Entry, theme: Theme) -> Text:
    state = shown_state(consumer)
    style = RESIDENCY_STYLES.get(state, "")
    line = Text.assemble((theme.dot, style), " ", (clean(consumer["name"]), "bold"), ": ", (state, style))
    if consumer.get("device"):
        place = gpus(consumer["device"])
        line.append(f" ({place})" if state == "unloaded" else f" on {place}")
    if consumer.get("used_mib"):
        line.append(f", holds {mib(consumer['used_mib'])}")
    if consumer.get("doing"):
        line.append(f", {clean(consumer['doing'])}", style="yellow")
    return line


def _facts(consumer: Entry, learned: Entry, now_usec: int) -> list[tuple[str, str, str]]:
    """Label, text and style of each property; empty ones are left out."""
    facts = [
        ("problem", clean(consumer.get("error") or ""), "red"),
        ("footprint", _declared(consumer, learned), ""),
        ("measured", _measured(learned), ""),
        ("warning", footprint_warning(consumer, learned), "bold yellow"),
        ("loads in", _times(learned.get("loads") or (), "start"), ""),
        ("unloads in", _times(learned.get("unloads") or (), "method"), ""),
        ("leased for", _time(learned.get("holds") or {}), ""),
        ("evicted by", ", then ".join(map(clean, consumer.get("evict") or ())), ""),
        ("unit", clean(consumer.get("unit") or ""), ""),
        ("container", clean(consumer.get("container") or ""), ""),
        ("shared with", _sharing(consumer), ""),
        ("url", clean(consumer.get("endpoint") or ""), ""),
        ("last used", last_used(consumer, now_usec), ""),
        ("note", _flags(consumer), ""),
    ]
    return [fact for fact in facts if fact[1]]


def _sharing(consumer: Entry) -> str:
    names = ", ".join(map(clean, consumer.get("shared_with") or ()))
    held = f"; together they hold {mib(consumer['shared_mib'])}" if consumer.get("shared_mib") else ""
    return names and names + held


def _declared(consumer: Entry, learned: Entry) -> str:
    if consumer.get("vram_resident_mib") is None:
        return "unknown"
    how = "declared"
    if consumer.get("vram_auto"):
        how = "a guess, until the first load is measured" if learned.get("peak_mib") is None else "measured"
    return f"{mib(consumer['vram_resident_mib'])} ({how})"


def _measured(learned: Entry) -> str:
    words = [
        f"{mib(learned[key])} {what}"
        for key, what in (
            ("steady_mib", "at rest"),
            ("peak_mib", "at peak"),
            ("residual_mib", "left after its unload route"),
        )
        if learned.get(key) is not None
    ]
    stays = int(learned.get("stays") or 0)
    return ", ".join(words) + (f"; over {count(stays, 'load')}" if stays and words else "")


def footprint_warning(consumer: Entry, learned: Entry) -> str:
    """A warning when measurements contradict the declared footprint; "" otherwise.

    Args:
        consumer: entry of GetStatus.
        learned: what the daemon measured, as GetAll answers it.
    """
    peak, declared = learned.get("peak_mib"), int(consumer.get("vram_resident_mib") or 0)
    is_declared = bool(declared) and not consumer.get("vram_auto")
    if peak is None or not is_declared or not Footprint(peaks_mib=(int(peak),)).contradicts(declared):
        return ""
    percent = round(100 * abs(int(peak) - declared) / declared)
    which = "more" if peak > declared else "less"
    return f"uses {percent} % {which} VRAM than declared; set vram_resident_mib = {peak}"


def _times(timings: Sequence[Entry], key: str) -> str:
    words = [(clean(one.get(key) or ""), _time(one)) for one in timings]
    return "; ".join(f"{time} {STARTS.get(word, f'by {word}')}" for word, time in words if time)


def _time(timings: Entry) -> str:
    if not timings.get("count"):
        return ""
    mean = usec(timings["mean_usec"])
    return mean if timings["count"] == 1 else f"{mean} (longest of {timings['count']}: {usec(timings['max_usec'])})"


def _flags(consumer: Entry) -> str:
    flags = (
        ("pinned", "pinned: not evicted to make room for others"),
        ("vram_managed", "manages its own VRAM"),
    )
    words = [word for flag, word in flags if consumer.get(flag)]
    memory = memory_note(consumer)
    if consumer.get("lazy") and memory != ON_FIRST_REQUEST:
        words.append("its own requests load its model")
    return "; ".join(filter(None, [*words, memory]))
