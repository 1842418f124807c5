"""Extracts the fenced code blocks of the documentation."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

_OPENING = re.compile(r"^( *)(`{3,})([^`]*)$")
_COMMENT = re.compile(r"^<!-- (.*) -->$")
_FILE = re.compile(r"^(?:#|//) (/etc/\S+|~/\S+)$")
_LEFT_OUT = ("_build", "generated", "presets")
"""Folders with generated pages."""
COMMANDS = ("sh", "console")
USER_PROMPT, ROOT_PROMPT = "$ ", "# "


@dataclass(frozen=True, slots=True)
class Step:
    """One command and what the page prints for it.

    Attributes:
        command: the command, which may have several lines.
        printed: the lines of output below it; () if the page shows none.
        is_root: it is typed by root.
    """

    command: str
    printed: tuple[str, ...] = ()
    is_root: bool = False


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced code block.

    Attributes:
        page: the file, relative to the root of the project.
        line: number of the line with the fence.
        language: the word after the fence, up to the first blank.
        text: the content, without the indentation of the fence.
        note: text of the comment on the line before the fence; "" if there is none.
    """

    page: str
    line: int
    language: str
    text: str
    note: str = ""

    def __str__(self) -> str:
        return self.place

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.page}:{self.line}"

    @property
    def has_commands(self) -> bool:
        """Whether the block shows commands to type."""
        return self.language in COMMANDS

    @property
    def file(self) -> str:
        """The path of the file that this block shows, from the comment in its first line; "" for a part of a file."""
        match = _FILE.match(self.text.partition("\n")[0])
        return match[1] if match and not self.has_commands else ""

    def commands(self) -> list[str]:
        """Return the commands: in a console block those after a prompt, otherwise all lines."""
        if self.language != "console":
            return self.text.splitlines()
        return [line for step in self.steps() for line in step.command.splitlines()]

    def steps(self) -> list[Step]:
        """Return the commands with their output; a block without prompts is one step, which root takes with sudo."""
        if self.language != "console":
            return [Step(self.text, is_root="sudo " in self.text)]
        steps: list[tuple[list[str], list[str], bool]] = []
        for line in self.text.splitlines():
            if line.startswith((USER_PROMPT, ROOT_PROMPT)):
                steps.append(([line[2:]], [], line.startswith(ROOT_PROMPT) or "sudo " in line))
            elif steps and not steps[-1][1] and _goes_on("\n".join(steps[-1][0])):
                steps[-1][0].append(line)
            elif steps:
                steps[-1][1].append(line)
        return [Step("\n".join(command), tuple(printed), is_root) for command, printed, is_root in steps]


def _goes_on(command: str) -> bool:
    """Whether a command has further lines: it ends with a backslash, or inside single quotes."""
    return command.endswith("\\") or command.count("'") % 2 == 1


def blocks(root: Path) -> list[Block]:
    """Return all blocks of the README and of docs, in the order of the files."""
    files = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    return [
        block
        for file in files
        if not set(file.relative_to(root).parts) & set(_LEFT_OUT)
        for block in blocks_of(str(file.relative_to(root)), file.read_text(encoding="utf-8"))
    ]


def blocks_of(page: str, text: str) -> list[Block]:
    """Return the blocks of one page, also those inside lists. Raises ValueError for a fence without an end."""
    found: list[Block] = []
    lines = text.splitlines()
    at = 0
    while at < len(lines):
        opening = _OPENING.match(lines[at])
        if opening is None:
            at += 1
            continue
        end = _end(lines, at, opening, page)
        content = textwrap.dedent("".join(f"{line}\n" for line in lines[at + 1 : end]))
        comment = _COMMENT.match(lines[at - 1].strip()) if at else None
        words = opening[3].split()
        found.append(Block(page, at + 1, words[0] if words else "", content, comment[1] if comment else ""))
        at = end + 1
    return found


def _end(lines: list[str], at: int, opening: re.Match[str], page: str) -> int:
    for number in range(at + 1, len(lines)):
        if lines[number].strip() == opening[2]:
            return number
    raise ValueError(f"{page}:{at + 1}: the block has no end")
