"""Do consumers answer, and are they well?"""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote

from gpumand.cli.doctor.facts import Facts
from gpumand.cli.doctor.finding import Finding, note, problem, unchecked, warning

RUNNING = ("active", "activating", "reloading")


def routes(facts: Facts) -> Iterator[Finding]:
    """Their health routes answer, where something should be running."""
    if facts.config.settings is None:
        if facts.config.unreadable:
            why = "only the files say where they are asked, and they cannot be read"
            yield unchecked("health routes of consumers", why, facts.root_ctl("doctor"))
        return
    for name, health in facts.routes.items():
        if not health.reachable:
            yield from _silent(facts, name, health.error, gone=health.gone)


def _silent(facts: Facts, name: str, error: str, *, gone: bool) -> Iterator[Finding]:
    """A unit that is not started need not answer."""
    spec = facts.consumers[name]
    unit = facts.units.get(spec.unit)
    if spec.unit and (unit is None or unit.active_state not in RUNNING):
        return
    path = spec.health.path if spec.health else ""
    asked = f"curl -sv {quote(spec.url + path)}"
    if gone and not spec.unit:
        yield note(f"{name}: nothing listens at {spec.url}", "its server is not running, and gpumand cannot start it")
    elif gone:
        why = "its unit runs: its server is still starting, or its url is wrong"
        yield warning(f"{name}: nothing listens at {spec.url}", why, asked)
    else:
        yield problem(f"{name}: {error}", "whether it is loaded cannot be told", asked)


def failing(facts: Facts) -> Iterator[Finding]:
    """None of them is in trouble by the daemon's word."""
    for name, entry in facts.entries.items():
        if entry.get("error"):
            yield warning(f"{name} is {entry['residency']}: {entry['error']}", "", facts.ctl(f"show {quote(name)}"))
