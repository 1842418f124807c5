"""Builds the report: sections of names and values, from facts about the host and from history entries."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from gpumand.cli.doctor.facts import Entry, Facts, UnitFacts
from gpumand.cli.doctor.finding import Finding
from gpumand.cli.issue_report import safe
from gpumand.cli.issue_report.host import HostVersions
from gpumand.cli.issue_report.message_kinds import kind_of, reading_error
from gpumand.config.presets import preset_names
from gpumand.domain.consumer import ConsumerSpec, EvictionMethod
from gpumand.domain.container import ContainerEngine
from gpumand.domain.history import EntryKind
from gpumand.domain.residency_states import Residency
from gpumand.vram import FACTORIES

MAX_FAILURES = 20
HOUR_USEC = 3_600_000_000
POOLS = ("vram", "unified", "host")
ATTRIBUTIONS = ("nvml", "kfd", "dmem", "fdinfo", "simulated")
DRIVER_STATES = ("open", "resting", "asleep", "released")
COUNTERS = ("grants", "refusals", "loads", "load_failures", "evictions", "eviction_failures")
LOAD_STATES = ("loaded", "not-found", "bad-setting", "error", "masked", "stub", "merged")
ACTIVE_STATES = ("active", "reloading", "inactive", "failed", "activating", "deactivating", "maintenance", "refreshing")
RESTARTS = ("no", "on-success", "on-failure", "on-abnormal", "on-watchdog", "on-abort", "always")
KILL_MODES = ("control-group", "mixed", "process", "none")
RESULTS = (
    *("success", "resources", "protocol", "timeout", "exit-code", "signal", "core-dump", "watchdog"),
    *("start-limit-hit", "oom-kill", "exec-condition"),
)
FAILURES = (EntryKind.LOAD_FAILED, EntryKind.EVICTION_FAILED)
Row = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report: its title, and rows of a name and a value."""

    title: str
    rows: tuple[Row, ...]


def sections(
    facts: Facts,
    versions: HostVersions,
    history: Sequence[Entry],
    findings: Mapping[str, Sequence[Finding] | None],
    now_usec: int,
) -> list[Section]:
    """The report.

    Args:
        facts: what the doctor collects.
        versions: of the software of the host.
        history: the last loads and evictions, also failed ones, newest first.
        findings: of the doctor's checks, by the name of the check.
        now_usec: CLOCK_REALTIME in microseconds, for the age of failures.
    """
    # Consumers are numbered, because their names are the user's.
    names = sorted({*facts.consumers, *facts.entries})
    numbers = {name: f"consumer {place}" for place, name in enumerate(names, start=1)}
    found = [
        Section("Versions", _versions(facts, versions)),
        Section("Daemon", _daemon(facts)),
        *(Section(f"Device {place}", _device(one)) for place, one in enumerate(_devices(facts))),
        *(Section(numbers[name].capitalize(), _consumer(facts, name, history)) for name in names),
        Section("Last failures", tuple(_failures(history, numbers, now_usec))),
        Section("Findings of gpumanctl doctor", _findings(findings)),
    ]
    return [one for one in found if one.rows]


def _versions(facts: Facts, versions: HostVersions) -> tuple[Row, ...]:
    driver = facts.driver
    rows = [
        ("gpumanctl", safe.version(versions.gpumanctl)),
        ("gpumand", safe.version(str(facts.status["version"])) if facts.status else "not running"),
        ("distribution", f"{versions.distribution} {safe.version(versions.distribution_version)}"),
        ("kernel", safe.version(versions.kernel)),
        ("machine", versions.machine),
        ("Python", safe.version(versions.python)),
        ("systemd", safe.version(versions.systemd)),
    ]
    if driver is not None:
        rows += [
            ("NVIDIA kernel module", safe.version(driver.kernel_version)),
            ("NVIDIA library", safe.version(driver.library_version)),
            ("NVIDIA error", reading_error(driver.error)),
        ]
    return tuple(rows)


def _daemon(facts: Facts) -> tuple[Row, ...]:
    rows = [
        ("bus", facts.bus.kind if facts.bus.kind in ("system", "session") else "another"),
        ("bus error", "yes" if facts.bus.error else "no"),
        ("systemd, polkit on the bus", f"{safe.yes(facts.bus.has_systemd)}, {safe.yes(facts.bus.has_polkit)}"),
    ]
    if facts.service is not None:
        rows.append(("gpumand.service", _unit(facts.service)))
    settings = facts.config.settings
    if settings is not None:
        sources = ", ".join(safe.word(one, ("auto", *FACTORIES)) for one in settings.gpu.sources)
        rows += [("configured sources", sources), ("policy", str(settings.scheduler.policy))]
    else:
        rows.append(("configuration", f"{len(facts.config.problems)} errors"))
    if facts.status is None:
        return tuple(rows)
    status = facts.status
    stats = status.get("stats") or {}
    counters = ", ".join(f"{name} {safe.number(stats.get(name))}" for name in COUNTERS)
    return (
        *rows,
        ("degraded", reading_error(str(status.get("degraded", "")))),
        ("driver state", safe.word(status.get("driver_state", "open"), DRIVER_STATES)),
        ("leases, waiting requests", f"{len(status.get('leases', ()))}, {len(status.get('queue', ()))}"),
        ("since the start", counters),
    )


def _devices(facts: Facts) -> list[Entry]:
    return list(facts.status["devices"]) if facts.status else []


def _device(device: Entry) -> tuple[Row, ...]:
    memory = ", ".join(f"{name} {safe.mib(device.get(f'{name}_mib'))}" for name in ("total", "used", "free"))
    others = ", ".join(f"{name} {safe.mib(device.get(f'{name}_mib'))}" for name in ("reserved", "foreign", "unnamed"))
    return (
        ("product", safe.product(device.get("name", ""))),
        ("source", safe.word(device.get("source"), tuple(FACTORIES))),
        ("memory", f"{memory}, {others}"),
        ("pool", safe.word(device.get("pool", "vram"), POOLS)),
        ("attribution", safe.word(device.get("attribution"), ATTRIBUTIONS)),
        ("integrated, asleep", f"{safe.yes(device.get('integrated', False))}, {safe.yes(device.get('asleep', False))}"),
        ("foreign processes", str(len(device.get("foreign", ())))),
        ("error", reading_error(str(device.get("error", "")))),
    )


def _consumer(facts: Facts, name: str, history: Sequence[Entry]) -> tuple[Row, ...]:
    spec, entry = facts.consumers.get(name), facts.entries.get(name, {})
    rows: list[Row] = []
    preset = spec.preset if spec else entry.get("preset", "")
    rows.append(("preset", safe.word(preset, preset_names())))
    if spec is not None:
        rows += _configured(spec)
    unit = facts.units.get(facts.unit_names.get(name, ""))
    if unit is not None:
        rows.append(("unit", _unit(unit)))
    if entry:
        rows += _state(entry)
    rows += _learned(facts.learned.get(name, {}))
    rows += _durations([one for one in history if one.get("consumer") == name])
    return tuple(rows)


def _configured(spec: ConsumerSpec) -> list[Row]:
    routes = [one for one in ("health", "busy", "load", "unload") if getattr(spec, one) is not None]
    flags = [one for one in ("vram_managed", "pinned", "parks", "lazy", "vram_auto") if getattr(spec, one)]
    return [
        ("runs in", _place(spec)),
        ("routes", ", ".join(routes) or "none"),
        ("eviction", ", ".join(spec.evict) or "none"),
        ("flags", ", ".join(flags) or "none"),
        ("declared", f"{safe.mib(spec.vram_resident_mib)} on {spec.device_count} of {len(spec.devices) or 'any'}"),
    ]


def _place(spec: ConsumerSpec) -> str:
    if spec.container:
        engine = spec.container.rpartition(":")[0]
        return f"container ({safe.word(engine, tuple(ContainerEngine)) if engine else 'any engine'})"
    if spec.unit:
        kind = spec.unit.rpartition(".")[2]
        template = "template " if "@" in spec.unit else ""
        return f"{template}{safe.word(kind, ('service', 'scope', 'target', 'slice', 'socket'))} unit"
    return "neither a unit nor a container of its own"


def _unit(unit: UnitFacts) -> str:
    words = (
        safe.word(unit.load_state, LOAD_STATES),
        safe.word(unit.active_state, ACTIVE_STATES),
        f"result {safe.word(unit.result, RESULTS)}",
        f"Restart={safe.word(unit.restart, RESTARTS)}",
        f"KillMode={safe.word(unit.kill_mode, KILL_MODES)}",
    )
    return ", ".join(words)


def _state(entry: Entry) -> list[Row]:
    memory = f"required {safe.mib(entry.get('vram_resident_mib'))}, measured {safe.mib(entry.get('measured_mib'))}"
    return [
        ("state", safe.word(entry.get("residency"), tuple(Residency))),
        ("memory", f"{memory}, in use {safe.mib(entry.get('used_mib'))}"),
        ("error", kind_of(str(entry["error"])) if entry.get("error") else "none"),
    ]


def _learned(learned: Entry) -> list[Row]:
    amounts = ", ".join(
        f"{name} {safe.mib(learned.get(f'{name}_mib'))}" for name in ("steady", "peak", "residual") if learned
    )
    rows: list[Row] = [("learned memory", amounts)] if amounts else []
    kinds = (("loads", "start", ("cold", "parked")), ("unloads", "method", tuple(EvictionMethod)))
    for key, label, known in kinds:
        for one in learned.get(key, ()):
            times = f"mean {safe.seconds(one.get('mean_usec'))}, longest {safe.seconds(one.get('max_usec'))}"
            rows.append((f"{key}, {safe.word(one.get(label), known)}", f"{safe.number(one.get('count'))}: {times}"))
    return rows


def _durations(entries: Iterable[Entry]) -> Iterable[Row]:
    """Durations of the loads and evictions in the history: an eviction ends when its memory is measured to be free."""
    found: dict[str, list[int]] = defaultdict(list)
    for one in entries:
        usec = safe.number(one.get("duration_usec"))
        if usec is not None and one.get("kind") in (EntryKind.LOAD, EntryKind.EVICTION, *FAILURES):
            method = f" by {safe.word(one['method'], tuple(EvictionMethod))}" if one.get("method") else ""
            found[f"{one['kind']}{method}"].append(usec)
    for kind, values in sorted(found.items()):
        times = ", ".join(safe.seconds(one) for one in (min(values), int(median(values)), max(values)))
        yield f"history, {kind}", f"{len(values)}: shortest, median, longest {times}"


def _failures(history: Iterable[Entry], numbers: Mapping[str, str], now_usec: int) -> Iterable[Row]:
    failed = [one for one in history if one.get("kind") in FAILURES]
    for one in failed[:MAX_FAILURES]:
        hours = max(0, now_usec - (safe.number(one.get("at_usec")) or 0)) // HOUR_USEC
        name = numbers.get(str(one.get("consumer")), "a removed consumer")
        took = safe.seconds(one.get("duration_usec"))
        yield f"{one['kind']}, {hours} h ago", f"{name}, after {took}: {kind_of(str(one.get('detail', '')))}"


def _findings(findings: Mapping[str, Sequence[Finding] | None]) -> tuple[Row, ...]:
    counted = {name: Counter(str(one.severity) for one in ones or ()) for name, ones in findings.items()}
    return tuple(
        (name, ", ".join(f"{number} {severity}" for severity, number in sorted(counts.items())))
        for name, counts in counted.items()
        if counts
    )
