"""Which commands of the documentation run where, and whether they print what the documentation shows.

The commands of one page run in the order of the page, on one host. A comment on the line before a block changes that:

``<!-- not run: REASON -->``
    It is not run.
``<!-- run by FILE -->``
    Another test runs it; the file of that test names the page.
``<!-- until Ctrl-C -->``
    The command runs in a terminal until it is interrupted after a while; one that ends earlier has failed.

A page whose commands need a service manager or files of the system runs on a booted machine (tests/e2e), every other
page against a private daemon (tests/integration).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from shlex import quote

from tests.blocks import Block, Step, blocks

ROOT = Path(__file__).resolve().parents[1]
NOT_RUN, RUN_BY, INTERRUPTED = "not run: ", "run by ", "until Ctrl-C"
INTERRUPT_AFTER_SEC = 3
TIMED_OUT = 124
"""Exit status of timeout(1) for a command that still ran."""
SIZES = {"llm": 6144, "comfyui": 13312}
"""The services of the documentation that a page need not configure, and their VRAM in MiB."""
TOTAL_MIB = 16384
"""The GPU of the documentation."""
NO_REASON = "gives no reason"
_NEEDS_A_MACHINE = re.compile(
    r"^# |\bsudo |\bsystemctl |\bjournalctl |\bgpasswd |/run/|/etc/|/var/|/usr/|~/\.config", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Page:
    """A page with commands.

    Attributes:
        name: the file, relative to the root of the project.
        blocks: its blocks with commands that are run, and the files that it shows, in order.
    """

    name: str
    blocks: tuple[Block, ...]

    def __str__(self) -> str:
        return self.name

    @property
    def files(self) -> dict[str, str]:
        """The files that the page shows, by path."""
        return {one.file: one.text for one in self.blocks if one.file}

    @property
    def needs_machine(self) -> bool:
        """Whether its commands need a service manager or files of the system."""
        return bool(self.files) or any(_NEEDS_A_MACHINE.search(one.text) for one in self.blocks)


def note_problem(block: Block) -> str:
    """Return what is wrong with the comment before a block with commands; "" if nothing is."""
    if block.note.startswith(NOT_RUN):
        gone = [name for name in re.findall(r"\btests/[\w/.]+\w", block.note) if not (ROOT / name).exists()]
        return (
            f"names {gone[0]}, which does not exist" if gone else "" if block.note[len(NOT_RUN) + 10 :] else NO_REASON
        )
    if block.note.startswith(RUN_BY):
        file = ROOT / block.note.removeprefix(RUN_BY)
        is_run = file.is_file() and block.page in file.read_text(encoding="utf-8")
        return "" if is_run else f"{file.name} does not run the blocks of {block.page}"
    return "" if block.note in ("", INTERRUPTED) else f"the comment before it is unknown: {block.note}"


def is_run(block: Block) -> bool:
    """Whether the commands of a block are run in the order of its page."""
    return block.has_commands and not block.note.startswith((NOT_RUN, RUN_BY))


def pages() -> list[Page]:
    """Return all pages with commands that are run."""
    found = [
        Page(name, tuple(one for one in group if is_run(one) or (one.file and not one.note)))
        for name, group in groupby(blocks(ROOT), lambda one: one.page)
    ]
    return [page for page in found if any(one.has_commands for one in page.blocks)]


_ID = re.compile(r"\b(?=[a-f]*\d)(?:[0-9a-f]{20}|[0-9a-f]{6})\b")


@dataclass(frozen=True, slots=True)
class Ids:
    """The ids that commands have printed, by the ids that the page shows in their place."""

    real: dict[str, str] = field(default_factory=dict)

    def used_in(self, command: str) -> str:
        """Return a command with the ids that earlier commands have printed."""
        return _ID.sub(lambda match: self.real.get(match[0], match[0]), command)

    def learn(self, step: Step, output: str) -> None:
        """Remember the ids of an output that fits what the page shows."""
        shown = [one[0] for line in step.printed for one in _ID.finditer(line)]
        printed = [match[0] for match in _ID.finditer(output)]
        if len(shown) == len(printed):
            for one, other in zip(shown, printed, strict=True):
                self.real.update({one: other, one[:6]: other[:6]})


def command_of(block: Block, step: Step) -> str:
    """Return what bash runs for a step."""
    if block.note != INTERRUPTED:
        return step.command
    # Programs such as top need a terminal. What is printed before the signal must arrive, hence the kill only later.
    limited = f"timeout --foreground --signal=INT --kill-after=20 {INTERRUPT_AFTER_SEC} bash -c {quote(step.command)}"
    return f"TERM=xterm script --quiet --return --command {quote(limited)} /dev/null"


def problem(block: Block, step: Step, status: int, output: str) -> str:
    """Return how the outcome of a step differs from the page; "" if it does not.

    Args:
        block, step: what was run.
        status: the exit status.
        output: standard output and standard error.
    """
    shown = [line for line in step.printed if line.strip()]
    is_error_shown = any(re.match(r"(gpumanctl|curl|error): ", line) for line in shown)
    expected = TIMED_OUT if block.note == INTERRUPTED else 0
    if status != expected and not is_error_shown:
        return f"{step.command}\nexit status {status}:\n{output}"
    if status == expected and is_error_shown:
        return f"{step.command}\nno error:\n{output}"
    printed = [line for line in output.splitlines() if line.strip()]
    if shown and not _fits(shown, printed):
        return f"{step.command}\nthe page shows:\n{_joined(shown)}\nit prints:\n{_joined(printed)}"
    return ""


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)


_SAME = (
    (re.compile(r"\d\d:\d\d:\d\d"), "CLOCK"),
    (re.compile(r"\b\d{16}\b"), "USEC"),
    (_ID, "ID"),
    (re.compile(r"\b\d+(\.\d+)? (ms|s|min|h|minutes?|seconds?)\b"), "TIME"),
    (re.compile(r"\bpid \d+"), "pid N"),
    (re.compile(r"127\.0\.0\.1:[3-6]\d{4}\b"), "ADDRESS"),
    (re.compile(r"\b(now|TIME ago)(?=\s|$)"), "AGO"),
    (re.compile(r"\b0\.\d+\.\d+\b"), "VERSION"),
    (re.compile(r"\b(user|by) (root|alice)\b|\b(root|alice)(?=, lease)"), "USER"),
    (re.compile(r"\bSINCE\b.*$"), ""),
    (re.compile(r"\s+"), " "),
)
"""What differs from run to run, and what it is replaced by before the comparison."""


def _same(line: str) -> str:
    for pattern, word in _SAME:
        line = pattern.sub(word, line)
    return line.strip()


def _fits(shown: Sequence[str], printed: Sequence[str]) -> bool:
    """Whether all shown lines were printed; ``…`` in a line is any text, and alone any number of lines."""
    pattern = "".join(
        r"(?:[^\n]*\n)*" if line.strip() == "…" else re.escape(_same(line)).replace("…", r"[^\n]*") + r"\n"
        for line in shown
    )
    return re.fullmatch(pattern, "".join(f"{_same(line)}\n" for line in printed)) is not None
