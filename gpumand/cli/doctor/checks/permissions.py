"""Checks of permissions: polkit and the group gpumand."""

from __future__ import annotations

from collections.abc import Iterator

from gpumand.cli.doctor.facts import GROUP, Facts
from gpumand.cli.doctor.finding import Finding, note, problem


def polkit(facts: Facts) -> Iterator[Finding]:
    """polkit is available and has gpumand's actions and rules."""
    if not facts.is_system or facts.bus.error:
        return
    if not facts.bus.has_polkit:
        yield problem(
            "polkit is not available",
            "only root and a consumer's own unit may acquire, and gpumand may not start or stop units",
            facts.install("polkitd"),
        )
    for path in facts.missing_files:
        why = "without it polkit refuses permitted actions"
        yield problem(f"{path} is missing", why, facts.install("gpumand", again=True))


def group(facts: Facts) -> Iterator[Finding]:
    """The caller may acquire without a password."""
    caller = facts.caller
    if not facts.is_system or caller.uid == 0 or caller.is_member:
        return
    if caller.is_listed:
        why = "sessions that started before do not have the group yet, so acquiring asks for a password"
        yield note(f"{caller.name} was added to the group {GROUP}", why, "log in again, or: newgrp " + GROUP)
        return
    create = "" if caller.group_exists else f"groupadd --system {GROUP} && sudo "
    why = "acquiring asks for a password, and services without a session are refused"
    fix = facts.root(f"{create}gpasswd --add {caller.name or caller.uid} {GROUP}")
    yield note(f"{caller.name or f'uid {caller.uid}'} is not in the group {GROUP}", why, fix)
