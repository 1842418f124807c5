"""References made from what the code says of itself; the lists are those of the man pages, and one of metrics."""

from __future__ import annotations

import re
from pathlib import Path

from gpumand.domain.status import ConsumerStatus, DeviceStatus, Status
from gpumand.http.metrics import Metrics
from man import LISTS, item


def metrics() -> str:
    """Every metric by its name, as a page for Prometheus explains it."""
    device = DeviceStatus(0, "", "", "", 1, 1, 1, 1, 1, 0, "")
    consumer = ConsumerStatus("a", "resident", "0", 1, 1, 0, 0, False, False, "", "")
    page = Metrics().text(Status("", "", (device,), (consumer,)))
    found = re.findall(r"^# HELP (\S+) (.*)\n# TYPE \S+ (\S+)$", page, flags=re.MULTILINE)
    return "\n".join(item(f"`{name}` ({kind})", meaning) for name, meaning, kind in found)


_NEW_PARAGRAPH = re.compile(
    r"(?<=[.:)]) (?=\*[a-z_]+\*: |`\w+`(?: [a-z]+)?: |Errors?: |Errors, |polkit action: |Options: |Allowed to )"
)
"""Where the one paragraph that a man page gives to a method goes on with something else."""


def interfaces() -> str:
    """Methods and signals as a man page has them, with a paragraph for each option, argument and part of the status."""
    return "\n".join(
        _NEW_PARAGRAPH.sub("\n\n  ", line) if line.startswith(": ") else line
        for line in LISTS["interfaces"]().splitlines()
    )


def write_all(folder: Path) -> None:
    """Write one file for every list; one that has not changed is left alone, so that pages are not read anew."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in {**LISTS, "metrics": metrics, "interfaces": interfaces}.items():
        file, text = folder / f"{name}.md", _for_the_web(make())
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def _for_the_web(text: str) -> str:
    """Headings of a man page are shouted, and stand one level too high for an included part of a page."""
    return "\n".join(_heading(line) if line.startswith("#") else line for line in text.splitlines()) + "\n"


def _heading(line: str) -> str:
    marks, _, words = line.partition(" ")
    return f"{'##' if len(marks) == 1 else marks} {_spoken(words) if words.isupper() else words}"


def _spoken(words: str) -> str:
    """``LOOK`` is ``Look``, ``ORG.GPUMAND1.MANAGER`` is ``org.gpumand1.Manager``."""
    before, dot, last = words.rpartition(".")
    return f"{before.lower()}{dot}{last.capitalize()}"
