"""Generates the reference lists from the code: the lists of the man pages and the list of metrics."""

from __future__ import annotations

import re
from pathlib import Path

from gpumand.domain.status import ConsumerStatus, DeviceStatus, Status
from gpumand.http.metrics import Metrics
from man import LISTS, item


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


def write_all(folder: Path) -> None:
    """Write one file per list. Unchanged files are not written, so that Sphinx does not read their pages again."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in {**LISTS, "metrics": metrics, "interfaces": interfaces}.items():
        file, text = folder / f"{name}.md", _as_web_page(make())
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


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
