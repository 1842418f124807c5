"""Extracts the fenced code blocks of the documentation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LEFT_OUT = ("_build", "generated")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced code block.

    Attributes:
        place: file and line.
        language: the word after the fence, up to the first blank.
        text: the content.
    """

    place: str
    language: str
    text: str

    def __str__(self) -> str:
        return self.place

    def commands(self) -> list[str]:
        """Return the commands: in a console block the lines with a prompt, otherwise all lines."""
        lines = self.text.splitlines()
        if self.language != "console":
            return lines
        return [line.removeprefix("# ") for line in lines if line.startswith("# ")]


def blocks(root: Path) -> list[Block]:
    """Return all blocks of the README and of docs, in the order of the files."""
    files = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    return [
        Block(f"{file.relative_to(root)}:{text.count(chr(10), 0, match.start()) + 1}", _language(match[1]), match[2])
        for file in files
        if not set(file.parts) & set(_LEFT_OUT)
        for text in [file.read_text(encoding="utf-8")]
        for match in _FENCE.finditer(text)
    ]


def _language(info: str) -> str:
    return info.split(maxsplit=1)[0] if info.split() else ""
