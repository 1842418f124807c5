"""Everything about the selected row, without a limit of width: each value on lines of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpumand.cli.render.format import clean, mib, usec
from gpumand.cli.render.history import KINDS
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import Theme
from gpumand.cli.render.wrap import wrapped
from gpumand.cli.top.processes import Facts

Entry = Mapping[str, Any]

LABEL_WIDTH = 26

MAX_VALUES = 64
"""Values of a list, and entries of a table, that are shown."""

LABELS = {
    "used_mib": "VRAM",
    "mib": "freed VRAM",
    "vram_resident_mib": "required VRAM",
    "vram_auto": "requirement is measured",
    "measured_mib": "measured peak",
    "vram_managed": "manages its own VRAM",
    "since_usec": "in this state since",
    "retry_usec": "next load not before",
    "at_usec": "time",
    "waited_usec": "waited",
    "duration_usec": "took",
    "temperature_celsius": "temperature (°C)",
    "temperature_limit_celsius": "temperature limit (°C)",
    "utilization_percent": "busy (%)",
    "power_watts": "power (W)",
    "power_limit_watts": "power limit (W)",
}
"""Labels of keys whose own words say too little, or lack the unit."""

HIDDEN = ("history", "used_mib_history", "foreign", "processes")
"""Keys that the screen shows as graphs and lists of their own."""

FIRST_DATED_USEC = 100_000_000_000_000
"""A larger number of microseconds is a moment, a smaller one a duration."""


def detail_lines(entry: Entry, now_usec: int, theme: Theme) -> list[Text]:
    """The values of an entry of GetStatus or GetHistory, as lines that are wrapped and not cut."""
    lines: list[Text] = []
    for key, value in entry.items():
        if key in HIDDEN or value in ("", None, (), [], {}):
            continue
        if isinstance(value, Facts):
            lines += _facts(value, theme)
        else:
            label = _label(key) if theme.unicode else _label(key).replace("°", "")
            lines += _line(label, _text(key, value, now_usec), theme)
    return lines


def _facts(facts: Facts, theme: Theme) -> list[Text]:
    cpu = "not measured yet" if facts.cpu_percent is None else f"{facts.cpu_percent:.0f} % of a core"
    command = _line("command line", clean(facts.command or "not readable for this user"), theme)
    return [*command, *_line("CPU", cpu, theme), *_line("host RAM", mib(facts.ram_mib), theme)]


def _line(label: str, text: str, theme: Theme) -> list[Text]:
    width = min(LABEL_WIDTH, theme.width // 2)
    return wrapped(text, theme, first=f"  {label:<{width}}", rest=" " * (width + 2))


def _label(key: str) -> str:
    """A key as words: ``used_mib`` is "used", ``owner_uid`` is "owner uid"."""
    return LABELS.get(key) or clean(key).removesuffix("_mib").removesuffix("_usec").replace("_", " ")


def _text(key: str, value: Any, now_usec: int) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(
            f"{clean(name)}: {_text(key, one, now_usec)}" for name, one in list(value.items())[:MAX_VALUES]
        )
    if isinstance(value, list | tuple):
        return ", ".join(_text(key, one, now_usec) for one in value[:MAX_VALUES])
    if isinstance(value, int):
        return _number(key, value, now_usec)
    return KINDS[value][0] if key == "kind" and value in KINDS else clean(value)


def _number(key: str, value: int, now_usec: int) -> str:
    if key.endswith("mib") or key == "used_by_device":
        return mib(value)
    if not key.endswith("_usec"):
        return str(value)
    if value == 0:
        return "no limit" if key == "expires_usec" else "never"
    if value < FIRST_DATED_USEC:
        return usec(value)
    return f"in {usec(value - now_usec)}" if value > now_usec else f"{usec(now_usec - value)} ago"
