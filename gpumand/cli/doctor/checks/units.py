"""Checks of consumers' systemd units: gpumand can start and stop them, and they stay stopped."""

from __future__ import annotations

from collections.abc import Iterator

from gpumand.cli.doctor.facts import Facts, UnitFacts
from gpumand.cli.doctor.finding import Finding, note, problem, unchecked, warning
from gpumand.cli.render.format import count, join_names, mib, plural
from gpumand.config.toml_writer import toml_key, toml_string
from gpumand.discovery.launcher_units import starts_other_programs
from gpumand.domain.consumer import UNKNOWN_MIB

RESTARTING = ("always", "on-success")
"""Values of Restart= that restart a process after a normal exit."""

LEAVING_PROCESSES = ("process", "none")
"""Values of KillMode= that leave processes alive after a stop."""


def _existing_units(facts: Facts) -> Iterator[tuple[str, UnitFacts]]:
    """Consumers with a unit that systemd knows, each with its unit."""
    for name, unit in facts.unit_names.items():
        found = facts.units.get(unit)
        if found is not None and found.load_state not in ("not-found", "masked"):
            yield name, found


def present(facts: Facts) -> Iterator[Finding]:
    """systemd knows every unit and can start it."""
    if facts.unit_names and facts.units_error:
        yield unchecked(f"{count(len(facts.unit_names), 'unit')} of consumers", facts.units_error)
        return
    for name, unit in facts.unit_names.items():
        found = facts.units.get(unit)
        if found is not None:
            yield from _state_findings(facts, name, found)


def _state_findings(facts: Facts, name: str, unit: UnitFacts) -> Iterator[Finding]:
    if unit.load_state == "not-found":
        why = f"gpumand cannot start or stop {name}"
        yield problem(f"{name}: systemd has no unit {unit.name}", why, "systemctl list-unit-files '*.service'")
    elif unit.load_state == "masked":
        yield problem(f"{name}: {unit.name} is masked", "nothing can start it", facts.systemctl(f"unmask {unit.name}"))
    elif unit.load_state not in ("loaded", ""):
        yield problem(f"{name}: {unit.name} is {unit.load_state}", "", f"systemd-analyze verify {unit.name}")
    elif unit.active_state == "failed":
        yield warning(f"{name}: {unit.name} has failed (result {unit.result})", "", f"journalctl -u {unit.name} -n 20")
    elif unit.need_daemon_reload:
        why = "its unit file was changed and systemd has not reloaded it"
        yield warning(f"{name}: {unit.name} is out of date", why, facts.systemctl("daemon-reload"))


def names(facts: Facts) -> Iterator[Finding]:
    """Units are configured by their primary name and have unit files; polkit's rule allows no others."""
    for name, unit in _existing_units(facts):
        if unit.id and unit.id != unit.name:
            yield problem(
                f"{name}: {unit.name} is an alias of {unit.id}",
                "systemd asks polkit about the primary name, which no consumer has, and polkit refuses",
                f"[consumers.{toml_key(name)}] unit = {toml_string(unit.id)}",
            )
        elif starts_other_programs(unit.name):
            yield warning(
                f"{name}: {unit.name} starts other programs too",
                "an eviction that stops the unit ends all of them, and their memory counts for this consumer",
                f"write a unit for the server alone, and name it at [consumers.{toml_key(name)}] unit",
            )
        elif not unit.fragment_path and facts.is_system:
            why = "gpumand may stop it but not start it: starting units without files could run any command"
            yield problem(
                f"{name}: {unit.name} has no unit file", why, facts.systemctl(f"edit --full --force {unit.name}")
            )


def restarts(facts: Facts) -> Iterator[Finding]:
    """Nothing restarts a unit after its eviction.

    systemd ignores Restart= after a stop job, so that it does not undo "unit-stop". It does restart a process that was
    ended by its own unload route.
    """
    for name, unit in _existing_units(facts):
        if unit.restart in RESTARTING and _methods(facts, name)[:1] == ("http",):
            yield _restart_finding(facts, name, unit)
        if unit.upheld_by:
            by = join_names(list(unit.upheld_by))
            keeps = plural(unit.upheld_by, "keeps", "keep")
            why = "systemd starts it again right after a stop, so that an eviction frees no memory"
            fix = facts.systemctl(f"edit {unit.upheld_by[0]}")
            yield problem(f"{name}: {by} {keeps} {unit.name} running (Upholds=)", why, fix)
        if unit.triggered_by and "unit-stop" in _methods(facts, name):
            by = join_names(list(unit.triggered_by))
            why = "it may load again without a request, and gpumand then has to make room for it"
            yield note(f"{name}: {by} can start {unit.name} again after an eviction", why)


def _restart_finding(facts: Facts, name: str, unit: UnitFacts) -> Finding:
    """A warning when evictions by the unload route have failed, else a note.

    Whether the unload route ends the process cannot be read from anywhere; failed evictions are the only sign of it.
    """
    failed = [one for one in facts.failed_evictions if one.get("consumer") == name and one.get("method") == "http"]
    what = f"{name}: {unit.name} has Restart={unit.restart}"
    fix = f"{facts.systemctl(f'edit {unit.name}')}   # [Service] Restart=on-failure"
    if failed:
        times = count(len(failed), "eviction")
        why = f"{times} by its unload route failed; if the route ends the process, systemd restarts it"
        return warning(what, why, fix)
    why = (
        "systemd does not restart a unit that gpumand stops, but if the unload route ends the process, it restarts "
        "the unit at once, which takes the VRAM again"
    )
    return note(what, why, fix)


def _methods(facts: Facts, name: str) -> tuple[str, ...]:
    """The consumer's eviction methods, in order."""
    if name in facts.consumers:
        return tuple(str(one) for one in facts.consumers[name].evict)
    return tuple(facts.entries.get(name, {}).get("evict") or ())


def kill_mode(facts: Facts) -> Iterator[Finding]:
    """A stop ends all processes of the unit."""
    for name, unit in _existing_units(facts):
        if unit.kill_mode in LEAVING_PROCESSES and "unit-stop" in _methods(facts, name):
            yield warning(
                f"{name}: {unit.name} has KillMode={unit.kill_mode}",
                "a stop leaves its other processes alive, and they keep their VRAM",
                f"{facts.systemctl(f'edit {unit.name}')}   # [Service] KillMode=mixed",
            )


def boot(facts: Facts) -> Iterator[Finding]:
    """Consumers that start and load at boot fit together."""
    starting = [
        (name, unit)
        for name, unit in _existing_units(facts)
        if unit.unit_file_state == "enabled" and name in facts.consumers and _loads_by_starting(facts, name)
    ]
    if not starting:
        return
    need_mib = sum(facts.consumers[name].vram_resident_mib for name, _ in starting)
    totals = [int(one["total_mib"]) for one in facts.status["devices"] if one.get("total_mib")] if facts.status else []
    names = join_names([name for name, _ in starting])
    fix = facts.systemctl(f"disable {' '.join(unit.name for _, unit in starting)}")
    if totals and need_mib > sum(totals):
        load = plural(starting, "starts at boot and loads its model", "start at boot and load their models")
        need = f"{plural(starting, 'it needs', 'together they need')} {mib(need_mib)} of {mib(sum(totals))}"
        fail = plural(starting, "it fails", "some of them fail")
        yield warning(f"{names} {load}", f"{need}, so that {fail} at every boot", fix)
    else:
        take = plural(starting, "starts at boot and takes", "start at boot and take")
        why = plural(
            starting,
            "gpumand counts its VRAM, and evicts it when others need the VRAM; disabled, it is started on demand",
            "gpumand counts their VRAM, and evicts them when others need it; disabled, they are started on demand",
        )
        yield note(f"{names} {take} {mib(need_mib)} without a request", why, fix)


def _loads_by_starting(facts: Facts, name: str) -> bool:
    """Whether, by the configuration, its process holds the model as soon as it has started."""
    spec = facts.consumers[name]
    return spec.load is None and not spec.lazy and spec.vram_resident_mib < UNKNOWN_MIB
