"""``doctor``: what was found, the worst first, each with what mends it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpumand.cli.doctor.finding import Finding, Severity
from gpumand.cli.render.format import clean, count
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import Theme
from gpumand.cli.render.wrap import wrapped

STYLES = {
    Severity.PROBLEM: "bold red",
    Severity.WARNING: "bold yellow",
    Severity.NOTE: "cyan",
    Severity.UNCHECKED: "bright_black",
}

WORDS = {
    Severity.PROBLEM: "problem",
    Severity.WARNING: "warning",
    Severity.NOTE: "note",
    Severity.UNCHECKED: "not checked",
}


Found = Mapping[str, Sequence[Finding] | None]
"""What each check found; None where there was nothing to look at."""


def doctor_lines(found: Found, look: Theme) -> list[Text]:
    """A line of summary, the findings, and which checks found nothing."""
    every = [one for ones in found.values() for one in ones or ()]
    findings = [one for severity in Severity for one in every if one.severity is severity]
    lines = [_summary(findings, look)]
    for finding in findings:
        lines += [Text(), *_finding(finding, look)]
    lines.append(Text())
    for title, names in (("checked and good", _good(found)), ("not looked at", _skipped(found))):
        lines += wrapped(f"{title}: {', '.join(names)}", look, first="", rest="  ") if names else []
    return lines


def _good(found: Found) -> list[str]:
    return [name for name, ones in found.items() if ones is not None and not ones]


def _skipped(found: Found) -> list[str]:
    return [name for name, ones in found.items() if ones is None]


def _summary(findings: Sequence[Finding], look: Theme) -> Text:
    numbers = {severity: sum(1 for one in findings if one.severity is severity) for severity in Severity}
    worst = next((severity for severity in (Severity.PROBLEM, Severity.WARNING) if numbers[severity]), None)
    words = [
        count(numbers[severity], word)
        for severity, word in WORDS.items()
        if numbers[severity] and severity is not Severity.UNCHECKED
    ]
    if numbers[Severity.UNCHECKED]:
        words.append(f"{numbers[Severity.UNCHECKED]} not checked")
    said = "nothing is wrong" if worst is None else "something is wrong"
    line = Text.assemble((look.dot, STYLES[worst] if worst else "green"), f" {said}")
    return line.append(f": {', '.join(words)}" if words else "")


def _finding(finding: Finding, look: Theme) -> list[Text]:
    style = STYLES[finding.severity]
    lines = wrapped(f"{WORDS[finding.severity]}: {clean(finding.what)}", look, first="", rest="  ", style=style)
    if finding.why:
        lines += wrapped(clean(finding.why), look)
    if finding.mend:  # to be copied, and so never broken, however long it is
        lines.append(Text(f"  {'→' if look.unicode else '>'} {clean(finding.mend)}"))
    return lines


def as_json(found: Found, is_well: bool) -> dict[str, Any]:
    """As plain values."""
    return {
        "well": is_well,
        "findings": [
            {"check": name, "severity": str(one.severity), "what": one.what, "why": one.why, "mend": one.mend}
            for name, ones in found.items()
            for one in ones or ()
        ],
        "good": _good(found),
        "skipped": _skipped(found),
    }
