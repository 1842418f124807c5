"""Who may do what: polkit, and the group."""

from __future__ import annotations

from collections.abc import Iterator

from gpumand.cli.doctor.facts import GROUP, Facts
from gpumand.cli.doctor.finding import Finding, note, problem


def polkit(facts: Facts) -> Iterator[Finding]:
    """polkit runs, and has our actions and rules."""
    if not facts.is_system or facts.bus.error:
        return
    if not facts.bus.is_polkit_there:
        yield problem(
            "polkit is not there",
            "only root, and a unit for itself, may acquire; and gpumand itself may not start or stop units",
            facts.root("apt-get install polkitd"),
        )
    for path in facts.missing_files:
        why = "without it polkit refuses what should be allowed"
        yield problem(f"{path} is missing", why, facts.root("apt-get install --reinstall gpumand"))


def group(facts: Facts) -> Iterator[Finding]:
    """Whoever asks may acquire without a password."""
    caller = facts.caller
    if not facts.is_system or caller.uid == 0 or caller.is_member:
        return
    if caller.is_listed:
        why = "sessions that began before that have not the group yet: you are asked for a password to acquire"
        yield note(f"{caller.name} was added to the group {GROUP}", why, "log in anew, or: newgrp " + GROUP)
        return
    create = "" if caller.group_exists else f"groupadd --system {GROUP} && sudo "
    why = "so that you are asked for a password to acquire, and your services without a session are refused"
    mend = facts.root(f"{create}gpasswd --add {caller.name or caller.uid} {GROUP}")
    yield note(f"{caller.name or caller.uid} is not in the group {GROUP}", why, mend)
