"""Are consumers' units such that gpumand can start and stop them, and that they stay stopped?"""

from __future__ import annotations

from collections.abc import Iterator

from gpumand.cli.doctor.facts import Facts, UnitFacts
from gpumand.cli.doctor.finding import Finding, note, problem, unchecked, warning
from gpumand.cli.render.format import count, listed, mib
from gpumand.config.toml_writer import key, quoted
from gpumand.domain.consumer import UNKNOWN_MIB

COME_BACK = ("always", "on-success")
"""Restart= with which a process that ends as it should is started again."""

LEFT_BEHIND = ("process", "none")
"""KillMode= with which a stop leaves processes alive."""


def _known(facts: Facts) -> Iterator[tuple[str, UnitFacts]]:
    """Consumers that are units systemd has, with them."""
    for name, unit in facts.unit_names.items():
        found = facts.units.get(unit)
        if found is not None and found.load_state not in ("not-found", "masked"):
            yield name, found


def present(facts: Facts) -> Iterator[Finding]:
    """systemd has them, and may start them."""
    if facts.unit_names and facts.units_error:
        yield unchecked(f"{count(len(facts.unit_names), 'unit')} of consumers", facts.units_error)
        return
    for name, unit in facts.unit_names.items():
        found = facts.units.get(unit)
        if found is not None:
            yield from _state(facts, name, found)


def _state(facts: Facts, name: str, unit: UnitFacts) -> Iterator[Finding]:
    if unit.load_state == "not-found":
        why = f"{name} can neither be loaded nor evicted by it"
        yield problem(f"{name}: systemd has no unit {unit.name}", why, "systemctl list-unit-files '*.service'")
    elif unit.load_state == "masked":
        yield problem(f"{name}: {unit.name} is masked", "nobody can start it", facts.systemctl(f"unmask {unit.name}"))
    elif unit.load_state not in ("loaded", ""):
        yield problem(f"{name}: {unit.name} is {unit.load_state}", "", f"systemd-analyze verify {unit.name}")
    elif unit.active_state == "failed":
        yield warning(f"{name}: {unit.name} has failed (result {unit.result})", "", f"journalctl -u {unit.name} -n 20")
    elif unit.need_daemon_reload:
        why = "its unit file was changed, and systemd has not read it since"
        yield warning(f"{name}: {unit.name} is out of date", why, facts.systemctl("daemon-reload"))


def names(facts: Facts) -> Iterator[Finding]:
    """They are configured by their own names, and have unit files: polkit's rule for gpumand knows no others."""
    for name, unit in _known(facts):
        if unit.id and unit.id != unit.name:
            yield problem(
                f"{name}: {unit.name} is another name of {unit.id}",
                "systemd asks polkit about the latter, which no consumer is configured with, and is told no",
                f"[consumers.{key(name)}] unit = {quoted(unit.id)}",
            )
        elif not unit.fragment_path and facts.is_system:
            why = "gpumand may stop it, but not start it: whoever can start units without a file can run anything"
            yield problem(
                f"{name}: {unit.name} has no unit file", why, facts.systemctl(f"edit --full --force {unit.name}")
            )


def restarts(facts: Facts) -> Iterator[Finding]:
    """Nothing starts them again when they were evicted.

    Restart= is not followed after a stop that systemd was asked for, so it does nothing against "unit-stop". It is
    after an end that an unload route brought about.
    """
    for name, unit in _known(facts):
        if unit.restart in COME_BACK and _methods(facts, name)[:1] == ("http",):
            yield _restart(facts, name, unit)
        if unit.upheld_by:
            by = listed(list(unit.upheld_by))
            why = "it is started again right after it was stopped, so that a stop frees nothing"
            yield problem(
                f"{name}: {unit.name} is held up by {by} (Upholds=)", why, f"systemctl edit {unit.upheld_by[0]}"
            )
        if unit.triggered_by and "unit-stop" in _methods(facts, name):
            by = listed(list(unit.triggered_by))
            why = "it comes back unasked, and gpumand makes room for it then as it must"
            yield note(f"{name}: {by} can start {unit.name} again after it was evicted", why)


def _restart(facts: Facts, name: str, unit: UnitFacts) -> Finding:
    """A fight where evictions by the route have failed; else only if the route ends the process, which nobody sees."""
    failed = [one for one in facts.failed_evictions if one.get("consumer") == name and one.get("method") == "http"]
    what = f"{name}: {unit.name} has Restart={unit.restart}"
    mend = f"{facts.systemctl(f'edit {unit.name}')}   # [Service] Restart=on-failure"
    if failed:
        times = count(len(failed), "eviction")
        why = f"{times} by its unload route failed: if that ends the process, systemd starts it again"
        return warning(what, why, mend)
    why = (
        "systemd does not restart what gpumand stops, but if the unload route ends the process, it starts that again "
        "at once, and the VRAM is taken again"
    )
    return note(what, why, mend)


def _methods(facts: Facts, name: str) -> tuple[str, ...]:
    """How it is evicted, in order."""
    if name in facts.consumers:
        return tuple(str(one) for one in facts.consumers[name].evict)
    return tuple(facts.entries.get(name, {}).get("evict") or ())


def kill_mode(facts: Facts) -> Iterator[Finding]:
    """A stop ends all of their processes."""
    for name, unit in _known(facts):
        if unit.kill_mode in LEFT_BEHIND and "unit-stop" in _methods(facts, name):
            yield warning(
                f"{name}: {unit.name} has KillMode={unit.kill_mode}",
                "a stop leaves its other processes alive, with the VRAM that they hold",
                f"{facts.systemctl(f'edit {unit.name}')}   # [Service] KillMode=mixed",
            )


def boot(facts: Facts) -> Iterator[Finding]:
    """What starts at boot, unasked, and loads then fits together."""
    starting = [
        (name, unit)
        for name, unit in _known(facts)
        if unit.unit_file_state == "enabled" and name in facts.consumers and _loads_by_starting(facts, name)
    ]
    if not starting:
        return
    need_mib = sum(facts.consumers[name].vram_resident_mib for name, _ in starting)
    totals = [int(one["total_mib"]) for one in facts.status["devices"] if one.get("total_mib")] if facts.status else []
    them = listed([name for name, _ in starting])
    mend = facts.systemctl(f"disable {' '.join(unit.name for _, unit in starting)}")
    if totals and need_mib > sum(totals):
        why = f"they need {mib(need_mib)} together, of {mib(sum(totals))}: some of them fail at every boot"
        yield warning(f"{them} start at boot, each with its model", why, mend)
    else:
        why = "gpumand counts that, and evicts them when room is needed; it starts them itself when they are asked for"
        yield note(
            f"{them} start{'s' if len(starting) == 1 else ''} at boot, unasked, and take {mib(need_mib)}", why, mend
        )


def _loads_by_starting(facts: Facts, name: str) -> bool:
    """Its process holds the model from its start on, as far as the configuration tells."""
    spec = facts.consumers[name]
    return spec.load is None and not spec.lazy and spec.vram_resident_mib < UNKNOWN_MIB
