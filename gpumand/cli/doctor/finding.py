"""Findings of the doctor's checks and their severities."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """Severity of a finding; only PROBLEM and WARNING make the exit code 1."""

    PROBLEM = "problem"
    """Something does not work."""

    WARNING = "warning"
    """It works, but probably not as the administrator expects."""

    NOTE = "note"
    """Worth knowing, and possibly intended."""

    UNCHECKED = "unchecked"
    """It could not be checked."""


WRONG = (Severity.PROBLEM, Severity.WARNING)


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding of a check.

    Attributes:
        severity: see Severity.
        what: the fact, in one line.
        why: its cause or consequence; "" when that is obvious.
        fix: the command or configuration line that repairs it; "" when there is none. In JSON its key is "mend".
    """

    severity: Severity
    what: str
    why: str = ""
    fix: str = ""


def problem(what: str, why: str = "", fix: str = "") -> Finding:
    """A finding with severity PROBLEM."""
    return Finding(Severity.PROBLEM, what, why, fix)


def warning(what: str, why: str = "", fix: str = "") -> Finding:
    """A finding with severity WARNING."""
    return Finding(Severity.WARNING, what, why, fix)


def note(what: str, why: str = "", fix: str = "") -> Finding:
    """A finding with severity NOTE."""
    return Finding(Severity.NOTE, what, why, fix)


def unchecked(what: str, why: str, fix: str = "") -> Finding:
    """A finding with severity UNCHECKED."""
    return Finding(Severity.UNCHECKED, what, why, fix)
