"""``show``: everything about one consumer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpumand.cli.render.format import clean, count, mib, usec
from gpumand.cli.render.history import history_lines
from gpumand.cli.render.plan import plan_lines
from gpumand.cli.render.status import last_used, lease_lines, queue_lines
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import RESIDENCY_STYLES, Theme
from gpumand.cli.render.wrap import wrapped
from gpumand.domain.footprint import Footprint

Entry = Mapping[str, Any]

LABEL_WIDTH = 12

STARTS = {"cold": "from a cold start", "parked": "while its server runs"}


def show_lines(shown: Entry, now_usec: int, look: Theme) -> list[Text]:
    """All that ``show`` gathered: facts first, then leases, the queue, what happened lately, and what would happen now.

    Args:
        shown: "consumer", "learned", "leases", "queue", "history" and "plan", as on the bus.
        now_usec: for what is told as "ago".
        look: of the screen.
    """
    consumer, learned = shown["consumer"], shown["learned"]
    lines = [_head(consumer, look)]
    for label, text, style in _facts(consumer, learned, now_usec):
        start = f"  {label:<{LABEL_WIDTH}}"
        lines += wrapped(text, look, first=start, rest=" " * len(start), style=style)
    for title, block in (
        ("Leases", lease_lines(shown["leases"], now_usec, look)),
        ("Waiting", queue_lines(shown["queue"], look)),
        ("Lately", history_lines(shown["history"], now_usec, look) if shown["history"] else []),
        ("If it were asked for now", plan_lines(shown["plan"], look) if shown["plan"].get("verdict") else []),
    ):
        lines += [Text(), Text(f"{title}:", style="bold"), *block] if block else []
    return lines


def _head(consumer: Entry, look: Theme) -> Text:
    residency = clean(consumer["residency"])
    style = RESIDENCY_STYLES.get(residency, "")
    line = Text.assemble((look.dot, style), " ", (clean(consumer["name"]), "bold"), ": ", (residency, style))
    if consumer.get("device"):
        place = f"GPU {clean(consumer['device'])}"
        line.append(f" ({place})" if residency == "unloaded" else f" on {place}")
    if consumer.get("used_mib"):
        line.append(f", holds {mib(consumer['used_mib'])}")
    if consumer.get("doing"):
        line.append(f", {clean(consumer['doing'])}", style="yellow")
    return line


def _facts(consumer: Entry, learned: Entry, now_usec: int) -> list[tuple[str, str, str]]:
    """Label, text and style; what there is nothing to say of is left out."""
    facts = [
        ("problem", clean(consumer.get("error") or ""), "red"),
        ("footprint", _declared(consumer, learned), ""),
        ("measured", _measured(learned), ""),
        ("warning", off_by(consumer, learned), "bold yellow"),
        ("loads in", _times(learned.get("loads") or (), "start"), ""),
        ("unloads in", _times(learned.get("unloads") or (), "method"), ""),
        ("leased for", _time(learned.get("holds") or {}), ""),
        ("evicted by", ", then ".join(map(clean, consumer.get("evict") or ())), ""),
        ("unit", clean(consumer.get("unit") or ""), ""),
        ("url", clean(consumer.get("endpoint") or ""), ""),
        ("last used", last_used(consumer, now_usec), ""),
        ("note", _flags(consumer), ""),
    ]
    return [fact for fact in facts if fact[1]]


def _declared(consumer: Entry, learned: Entry) -> str:
    if consumer.get("vram_resident_mib") is None:
        return "not known"
    how = "declared"
    if consumer.get("vram_auto"):
        how = "a guess, until it is measured" if learned.get("peak_mib") is None else "not declared: measured"
    return f"{mib(consumer['vram_resident_mib'])} ({how})"


def _measured(learned: Entry) -> str:
    words = [
        f"{mib(learned[key])} {what}"
        for key, what in (
            ("steady_mib", "at rest"),
            ("peak_mib", "at most"),
            ("residual_mib", "left after its unload route"),
        )
        if learned.get(key) is not None
    ]
    stays = int(learned.get("stays") or 0)
    return ", ".join(words) + (f"; over {count(stays, 'stay')} in VRAM" if stays and words else "")


def off_by(consumer: Entry, learned: Entry) -> str:
    """A sentence where the declared footprint is wrong; "" where it is right, measured itself, or nothing is known."""
    peak, declared = learned.get("peak_mib"), int(consumer.get("vram_resident_mib") or 0)
    is_declared = bool(declared) and not consumer.get("vram_auto")
    if peak is None or not is_declared or not Footprint(peaks_mib=(int(peak),)).contradicts(declared):
        return ""
    percent = round(100 * abs(int(peak) - declared) / declared)
    which = "more" if peak > declared else "less"
    return f"it holds {percent} % {which} than is declared; write vram_resident_mib = {peak}"


def _times(seen: Sequence[Entry], key: str) -> str:
    words = [(clean(one.get(key) or ""), _time(one)) for one in seen]
    return "; ".join(f"{time} {STARTS.get(word, f'by {word}')}" for word, time in words if time)


def _time(seen: Entry) -> str:
    if not seen.get("count"):
        return ""
    mean = usec(seen["mean_usec"])
    return mean if seen["count"] == 1 else f"{mean} (longest of {seen['count']}: {usec(seen['max_usec'])})"


def _flags(consumer: Entry) -> str:
    flags = (
        ("pinned", "pinned: it is not evicted to make room"),
        ("vram_managed", "it manages its VRAM itself"),
        ("lazy", "only its own requests load it"),
    )
    return "; ".join(word for flag, word in flags if consumer.get(flag))
