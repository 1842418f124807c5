"""``plan``: what Acquire would do now, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpumand.cli.render.format import NOTHING, clean, mib
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import VERDICT_STYLES, Theme
from gpumand.cli.render.wrap import wrapped

Entry = Mapping[str, Any]

VERDICTS = {"grant": "would be granted", "wait": "would wait", "refuse": "would be refused"}


def plan_lines(plan: Entry, look: Theme) -> list[Text]:
    """The verdict, the room it needs, the evictions with their reasons, and who is spared and why."""
    reason = wrapped(clean(plan["message"]), look) if plan.get("message") else _room(plan)
    lines = [_verdict(plan), *reason]
    lines += _section("evicts", _evictions(plan, look))
    lines += _section("spares", _spared(plan, look))
    return lines


def _verdict(plan: Entry) -> Text:
    verdict = clean(plan["verdict"])
    line = Text.assemble((clean(plan["consumer"]), "bold"), ": ")
    line.append(VERDICTS.get(verdict, verdict), style=VERDICT_STYLES.get(verdict, "bold"))
    if plan.get("device"):
        line.append(f" on GPU {clean(plan['device'])}")
    if verdict == "grant":
        line.append(_how(plan))
    if plan.get("error"):
        line.append(f" ({clean(plan['error']).rpartition('.')[2]})")
    return line


def _how(plan: Entry) -> str:
    evictions = len(plan.get("evictions") or ())
    if plan.get("resident"):
        return ": it is resident"
    after = f"after {evictions} eviction{'' if evictions == 1 else 's'}" if evictions else "without any eviction"
    return f" {after}, by loading it" if plan.get("load") else f" {after}"


def _room(plan: Entry) -> list[Text]:
    need, free = plan.get("need_mib"), plan.get("free_mib")
    if need is None:
        return []
    return [Text(f"  needs {mib(need)} with the cushion, {mib(free) if free is not None else 'unknown'} free")]


def _evictions(plan: Entry, look: Theme) -> list[Text]:
    """Whom, how, how much; and under it why."""
    lines: list[Text] = []
    for eviction in plan.get("evictions") or ():
        frees = mib(eviction["expected_mib"]) if eviction.get("expected_mib") is not None else "an unknown amount"
        how = f", by {clean(eviction.get('method') or NOTHING)}, frees {frees}"
        verb = "parks " if eviction.get("parks") else ""
        lines.append(Text.assemble(f"    {verb}", (clean(eviction["consumer"]), "bold"), how))
        lines += wrapped(clean(eviction.get("why") or ""), look, first="      ") if eviction.get("why") else []
    return lines


def _spared(plan: Entry, look: Theme) -> list[Text]:
    lines: list[Text] = []
    for spared in plan.get("spared") or ():
        lines += wrapped(f"{clean(spared['consumer'])}: {clean(spared['why'])}", look, first="    ", rest="      ")
    return lines


def _section(title: str, lines: list[Text]) -> list[Text]:
    return [Text(f"  {title}:", style="bold"), *lines] if lines else []
