#!/usr/bin/env python3
"""Find words that make texts of this project hard to read: in the documentation, the code, and the installed files.

usage: scripts/check_language.py [FOLDER]

Prints one line per finding, with a better wording, and exits with 1 if there is any. FOLDER is the root of the project;
the default is the checkout that contains this script. Words that a format or another program prescribes are listed in
``EXCEPTIONS``, each with its reason.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

FILES = (
    "README.md",
    "CHANGELOG.md",
    "docs/**/*.md",
    "docs/**/*.inc",
    "man/*.md",
    "gpumand/**/*.py",
    "gpumand/**/*.toml",
    "dbus/*",
    "systemd/**/*",
    "examples/**/*",
)

GENERATED = "docs/reference/generated/"

WORDS = {
    "whoever": 'a noun: "the process that"',
    "whom": 'a noun: "the request that"',
    "nobody": '"no consumer", "no process"',
    "somebody": '"a client", "a user"',
    "anew": '"again" or "from scratch"',
    "mend": '"fix" or "repair"',
    "mends": '"fixes" or "repairs"',
    "mended": '"fixed" or "repaired"',
    "mending": '"fixing" or "repairing"',
    "is told": '"gets", "is notified"',
    "are told": '"get", "are notified"',
    "tells of": '"reports"',
    "heed": '"respect" or "follow"',
    "heeds": '"respects" or "follows"',
    "heeded": '"respected" or "followed"',
    "lest": '"so that ... not"',
    "for good": '"permanently"',
    "figure": '"reading", "value" or "measurement"',
    "figures": '"readings", "values" or "measurements"',
}
"""Word or phrase -> what to write instead."""


@dataclass(frozen=True)
class Excepted:
    """An exception: lines on which a word is allowed.

    Attributes:
        file: glob pattern of the files, relative to the root.
        line: regular expression that the line must match.
        reason: why the word must stay.
    """

    file: str
    line: str
    reason: str

    def matches(self, file: Path, line: str) -> bool:
        """Whether this exception allows a word on this line of a file."""
        return file.match(self.file) and re.search(self.line, line) is not None


EXCEPTIONS = (
    Excepted("gpumand/cli/render/doctor.py", r'"mend": one\.fix', "key in the JSON output of gpumanctl doctor"),
    Excepted("gpumand/cli/doctor/finding.py", r'In JSON its key is "mend"', "documents that key"),
    Excepted("*", "figures-partitioned", "keyword of a log message"),
)


@dataclass(frozen=True)
class Finding:
    """A word that is to be replaced."""

    file: Path
    line: int
    word: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {' '.join(self.word.split())!r}: write {WORDS[_key(self.word)]}"


def main() -> int:
    """Check the project and return the exit status."""
    parser = argparse.ArgumentParser(description="Find words that make texts of this project hard to read.")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT, help="root of the project")
    found = list(check(parser.parse_args().folder))
    for one in found:
        print(one)
    if found:
        print(f"{len(found)} found; exceptions are in scripts/check_language.py", file=sys.stderr)
    return 1 if found else 0


def check(root: Path) -> Iterator[Finding]:
    """Yield the findings in all files below a root, in the order of their names."""
    for file in files(root):
        yield from findings(file.relative_to(root), file.read_text(encoding="utf-8"))


def files(root: Path) -> list[Path]:
    """Return the files to check."""
    found = {file for pattern in FILES for file in root.glob(pattern) if file.is_file() and not file.is_symlink()}
    return sorted(one for one in found if "__pycache__" not in one.parts and GENERATED not in one.as_posix())


# A phrase may be wrapped, and the next line of a comment begins with its sign. Underscores separate words too, so that
# identifiers are checked. "{figure}" is a directive of the documentation.
_GAP = r"\s+(?:#\s*)?"
_PATTERN = re.compile(
    r"(?<![A-Za-z{])("
    + "|".join(_GAP.join(map(re.escape, one.split())) for one in sorted(WORDS, key=len, reverse=True))
    + r")(?![A-Za-z])",
    re.IGNORECASE,
)


def findings(file: Path, text: str) -> Iterator[Finding]:
    """Yield the findings in a text.

    Args:
        file: path of the text, relative to the root.
        text: its content.
    """
    lines = text.split("\n")
    for match in _PATTERN.finditer(text):
        number = text.count("\n", 0, match.start()) + 1
        if not any(one.matches(file, lines[number - 1]) for one in EXCEPTIONS):
            yield Finding(file, number, match[1])


def _key(word: str) -> str:
    """Return the entry of ``WORDS`` for a match."""
    return " ".join(word.replace("#", " ").lower().split())


if __name__ == "__main__":
    sys.exit(main())
