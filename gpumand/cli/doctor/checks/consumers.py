"""Checks of consumers: health routes and reported errors."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote

from gpumand.cli.doctor.facts import Facts
from gpumand.cli.doctor.finding import Finding, note, problem, unchecked, warning

RUNNING = ("active", "activating", "reloading")


def routes(facts: Facts) -> Iterator[Finding]:
    """The health route of every running consumer answers."""
    if facts.config.settings is None:
        if facts.config.unreadable:
            why = "their URLs are in the configuration files, which cannot be read"
            yield unchecked("health routes of consumers", why, facts.ctl_as_root("doctor"))
        return
    for name, health in facts.routes.items():
        if not health.reachable:
            yield from _unreachable(facts, name, health.error, refused=health.refused)


def _unreachable(facts: Facts, name: str, error: str, *, refused: bool) -> Iterator[Finding]:
    """The finding for a health route that did not answer; none when the consumer's unit does not run."""
    spec = facts.consumers[name]
    unit = facts.units.get(spec.unit)
    if spec.unit and (unit is None or unit.active_state not in RUNNING):
        return
    path = spec.health.path if spec.health else ""
    command = f"curl -sv {quote(spec.url + path)}"
    if refused and not spec.unit:
        yield note(f"{name}: nothing listens at {spec.url}", "its server is not running and gpumand cannot start it")
    elif refused:
        why = "its unit is running, so either its server is still starting or its url is wrong"
        yield warning(f"{name}: nothing listens at {spec.url}", why, command)
    else:
        yield problem(f"{name}: {error}", "gpumand cannot tell whether it is loaded", command)


def failing(facts: Facts) -> Iterator[Finding]:
    """The daemon reports no error for a consumer."""
    for name, entry in facts.entries.items():
        if entry.get("error"):
            yield warning(f"{name} is {entry['residency']}: {entry['error']}", "", facts.ctl(f"show {quote(name)}"))
