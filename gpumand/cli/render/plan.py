"""Output of ``plan``: what a request would do now, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpumand.cli.render.format import NOTHING, about, clean, count, gpus, mib
from gpumand.cli.render.status import unnamed_lines
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import VERDICT_STYLES, Theme
from gpumand.cli.render.wrap import wrapped

Entry = Mapping[str, Any]

VERDICTS = {"grant": "would be granted", "wait": "would wait", "refuse": "would be refused"}


def plan_lines(plan: Entry, theme: Theme) -> list[Text]:
    """The verdict, the memory needed, and which consumers would be evicted and kept, each with its reason."""
    reason = wrapped(clean(plan["message"]), theme) if plan.get("message") else _room(plan)
    lines = [_verdict(plan), *reason, *unnamed_lines(plan, theme)]
    lines += _section("would evict", _evictions(plan, theme))
    lines += _section("would keep", _spared(plan, theme))
    return lines


def _verdict(plan: Entry) -> Text:
    verdict = clean(plan["verdict"])
    line = Text.assemble((clean(plan["consumer"]) or "reservation", "bold"), ": ")
    line.append(VERDICTS.get(verdict, verdict), style=VERDICT_STYLES.get(verdict, "bold"))
    if plan.get("device"):
        line.append(f" on {gpus(plan['device'])}")
    if verdict == "grant":
        line.append(_how(plan))
    if plan.get("error"):
        line.append(f" ({clean(plan['error']).rpartition('.')[2]})")
    line.append(_when(plan))
    return line


def _when(plan: Entry) -> str:
    """The expected time until the grant; empty for a consumer that is served at once, and where it is unknown."""
    expected = plan.get("expected_usec")
    word = "in about" if plan["verdict"] == "grant" else "about"
    return f", {word} {about(expected / 1_000_000)}" if expected else ""


def _how(plan: Entry) -> str:
    evictions = len(plan.get("evictions") or ())
    if plan.get("resident"):
        return ": it is already resident"
    after = f"after {count(evictions, 'eviction')}" if evictions else "without evictions"
    return f" {after} and a load" if plan.get("load") else f" {after}"


def _room(plan: Entry) -> list[Text]:
    need, free = plan.get("need_mib"), plan.get("free_mib")
    if need is None:
        return []
    available = "an unknown amount" if free is None else mib(free)
    return [Text(f"  needs {mib(need)} including the cushion; {available} is free")]


def _evictions(plan: Entry, theme: Theme) -> list[Text]:
    """Each victim with its method and the memory it frees, and below it the reason."""
    lines: list[Text] = []
    for eviction in plan.get("evictions") or ():
        frees = mib(eviction["expected_mib"]) if eviction.get("expected_mib") is not None else "an unknown amount"
        how = f", by {clean(eviction.get('method') or NOTHING)}, frees {frees}"
        verb = "parks " if eviction.get("parks") else ""
        lines.append(Text.assemble(f"    {verb}", (clean(eviction["consumer"]), "bold"), how))
        lines += wrapped(clean(eviction.get("why") or ""), theme, first="      ") if eviction.get("why") else []
    return lines


def _spared(plan: Entry, theme: Theme) -> list[Text]:
    lines: list[Text] = []
    for spared in plan.get("spared") or ():
        lines += wrapped(f"{clean(spared['consumer'])}: {clean(spared['why'])}", theme, first="    ", rest="      ")
    return lines


def _section(title: str, lines: list[Text]) -> list[Text]:
    return [Text(f"  {title}:", style="bold"), *lines] if lines else []
