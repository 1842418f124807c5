"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad it is; of these only the first two make something wrong."""

    PROBLEM = "problem"
    """It does not work."""

    WARNING = "warning"
    """It works, but not as somebody probably thinks."""

    NOTE = "note"
    """It may be meant so."""

    UNCHECKED = "unchecked"
    """It could not be seen."""


WRONG = (Severity.PROBLEM, Severity.WARNING)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found.

    Attributes:
        severity: see Severity.
        what: what is so, in one line.
        why: what comes of it; "" where that is plain.
        mend: the command, or the line of configuration, that mends it; "" where there is none.
    """

    severity: Severity
    what: str
    why: str = ""
    mend: str = ""


def problem(what: str, why: str = "", mend: str = "") -> Finding:
    """It does not work."""
    return Finding(Severity.PROBLEM, what, why, mend)


def warning(what: str, why: str = "", mend: str = "") -> Finding:
    """It works, but not as somebody probably thinks."""
    return Finding(Severity.WARNING, what, why, mend)


def note(what: str, why: str = "", mend: str = "") -> Finding:
    """It may be meant so."""
    return Finding(Severity.NOTE, what, why, mend)


def unchecked(what: str, why: str, mend: str = "") -> Finding:
    """It could not be seen."""
    return Finding(Severity.UNCHECKED, what, why, mend)
