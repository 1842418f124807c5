"""Generates the reference lists from the code: the lists of the man pages and the list of metrics."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from key_examples import example
from preset_pages import preset_pages

from gpumand.config.schema import TABLES
from gpumand.config.table_schema import Key, keys_of
from gpumand.domain.status import ConsumerStatus, DeviceStatus, Status
from gpumand.fleet.config import TABLES as FLEET_TABLES
from gpumand.gateway.config import TABLES as GATEWAY_TABLES
from gpumand.http.metrics import Metrics
from gpumand.notify.config import TABLES as NOTIFY_TABLES
from man import LISTS, item, table_heading, value_of


def metrics() -> str:
    """Return all metrics with type and description, as a definition list."""
    device = DeviceStatus(0, "", "", "", 1, 1, 1, 1, 1, 0, "")
    consumer = ConsumerStatus("a", "resident", "0", 1, 1, 0, 0, False, False, "", "")
    page = Metrics().text(Status("", "", (device,), (consumer,)))
    found = re.findall(r"^# HELP (\S+) (.*)\n# TYPE \S+ (\S+)$", page, flags=re.MULTILINE)
    return "\n".join(item(f"`{name}` ({kind})", meaning) for name, meaning, kind in found)


_NEW_PARAGRAPH = re.compile(
    r"(?<=[.:)]) (?=\*[a-z_]+\*: |`\w+` \(aa?\{sv\}\): |Options? `|Errors?: |The polkit action |Allowed are )"
)
"""Matches the places where the single paragraph that a man page has for a method is split into several."""


def interfaces() -> str:
    """Return methods and signals as in the man page, with one paragraph per option, argument and status entry."""
    return "\n".join(
        _NEW_PARAGRAPH.sub("\n\n  ", line) if line.startswith(": ") else line
        for line in LISTS["interfaces"]().splitlines()
    )


def tables_with_examples(tables: Mapping[str, type]) -> str:
    """Return the tables of a configuration file with their keys, as in the man page, and with an example for each."""
    return "\n".join(_table(name, keys_of(table)) for name, table in tables.items())


def _table(name: str, keys: Mapping[str, Key]) -> str:
    return table_heading(name) + "\n".join(
        item(f"**{key.name}**", f"{key.doc} {value_of(key)}") + _example(name, key.name) for key in keys.values()
    )


def _example(table: str, key: str) -> str:
    """A second paragraph of the key's entry."""
    return f"\n  Example: `{example(table, key)}`\n"


OWN: dict[str, Callable[[], str]] = {
    "metrics": metrics,
    "interfaces": interfaces,
    "tables": lambda: tables_with_examples(TABLES),
    "gateway-tables": lambda: tables_with_examples(GATEWAY_TABLES),
    "notify-tables": lambda: tables_with_examples(NOTIFY_TABLES),
    "fleet-tables": lambda: tables_with_examples(FLEET_TABLES),
}
"""Lists that differ from those in the man pages."""


def write_all(reference: Path) -> None:
    """Write one file per list into ``generated``, and one page per preset into ``presets``."""
    lists, pages = reference / "generated", reference / "presets"
    for folder in (lists, pages):
        folder.mkdir(parents=True, exist_ok=True)
    for name, make in {**LISTS, **OWN}.items():
        _write(lists / f"{name}.md", _as_web_page(make()))
    found = preset_pages()
    for name, text in found.items():
        _write(pages / f"{name}.md", text)
    for file in pages.glob("*.md"):
        if file.stem not in found:
            file.unlink()


def _write(file: Path, text: str) -> None:
    """Write a file unless it has this text, so that Sphinx does not read its page again."""
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        # Another build may read the same file at this moment.
        new = file.with_suffix(f".{os.getpid()}")
        new.write_text(text, encoding="utf-8")
        new.replace(file)


def _as_web_page(text: str) -> str:
    """Convert man page headings, which are upper case and one level too high for an included file."""
    return "\n".join(_heading(line) if line.startswith("#") else line for line in text.splitlines()) + "\n"


def _heading(line: str) -> str:
    marks, _, words = line.partition(" ")
    return f"{'##' if len(marks) == 1 else marks} {_title_case(words) if words.isupper() else words}"


def _title_case(words: str) -> str:
    """``LOOK`` is ``Look``, ``ORG.GPUMAND1.MANAGER`` is ``org.gpumand1.Manager``."""
    before, dot, last = words.rpartition(".")
    return f"{before.lower()}{dot}{last.capitalize()}"
