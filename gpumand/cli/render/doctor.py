"""Output of ``doctor``: the findings, most severe first, each with its fix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gpumand.cli.doctor.checks import passed
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

SEVERITY_WORDS = {
    Severity.PROBLEM: "problem",
    Severity.WARNING: "warning",
    Severity.NOTE: "note",
    Severity.UNCHECKED: "not checked",
}


CheckResults = Mapping[str, Sequence[Finding] | None]
"""Findings of each check, by its name; None for a check that does not apply to this host."""


def doctor_lines(results: CheckResults, theme: Theme) -> list[Text]:
    """A summary line, the findings, then the names of the checks that passed and of those that do not apply.

    A check whose group has a finding is not listed as passed.
    """
    all_findings = [one for ones in results.values() for one in ones or ()]
    findings = [one for severity in Severity for one in all_findings if one.severity is severity]
    lines = [_summary(findings, theme)]
    for finding in findings:
        lines += [Text(), *_finding(finding, theme)]
    lines.append(Text())
    for title, names in (("passed", passed(results)), ("not applicable", _not_applicable(results))):
        lines += wrapped(f"{title}: {', '.join(names)}", theme, first="", rest="  ") if names else []
    return lines


def _not_applicable(results: CheckResults) -> list[str]:
    return [name for name, ones in results.items() if ones is None]


def _summary(findings: Sequence[Finding], theme: Theme) -> Text:
    numbers = {severity: sum(1 for one in findings if one.severity is severity) for severity in Severity}
    worst = next((severity for severity in (Severity.PROBLEM, Severity.WARNING) if numbers[severity]), None)
    words = [
        count(numbers[severity], word)
        for severity, word in SEVERITY_WORDS.items()
        if numbers[severity] and severity is not Severity.UNCHECKED
    ]
    if numbers[Severity.UNCHECKED]:
        words.append(f"{numbers[Severity.UNCHECKED]} not checked")
    verdict = "no problems found" if worst is None else "found"
    line = Text.assemble((theme.dot, STYLES[worst] if worst else "green"), f" {verdict}")
    return line.append(f": {', '.join(words)}" if words else "")


def _finding(finding: Finding, theme: Theme) -> list[Text]:
    style = STYLES[finding.severity]
    lines = wrapped(
        f"{SEVERITY_WORDS[finding.severity]}: {clean(finding.what)}", theme, first="", rest="  ", style=style
    )
    if finding.why:
        lines += wrapped(clean(finding.why), theme)
    if finding.fix:
        # Never wrapped, however long it is: the user copies it.
        lines.append(Text(f"  {'→' if theme.unicode else '>'} {clean(finding.fix)}"))
    return lines


def as_json(results: CheckResults, is_healthy: bool) -> dict[str, Any]:
    """The results as plain values, for ``--json``."""
    return {
        "well": is_healthy,
        "findings": [
            {"check": name, "severity": str(one.severity), "what": one.what, "why": one.why, "mend": one.fix}
            for name, ones in results.items()
            for one in ones or ()
        ],
        "good": passed(results),
        "skipped": _not_applicable(results),
    }
