"""Checks of the configuration: valid, loaded by the daemon, and consistent with the measurements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from shlex import quote

from gpumand.cli.doctor.facts import Entry, Facts
from gpumand.cli.doctor.finding import Finding, problem, unchecked, warning
from gpumand.cli.render.format import join_names, mib, plural
from gpumand.config.toml_writer import toml_key, toml_string
from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.cuda_context import CONTEXT_MIB
from gpumand.domain.footprint import Footprint

MARGIN_USEC = 1_000_000
"""Tolerance in microseconds: a file changed within a second after the daemon read it counts as read."""


def files(facts: Facts) -> Iterator[Finding]:
    """The files can be read, have no errors, and define a consumer."""
    for path in facts.config.unreadable:
        yield unchecked(f"the configuration in {path}", "you may not read it", facts.ctl_as_root("doctor"))
    for one in facts.config.problems:
        why = "the daemon does not start with this error, and refuses to reload"
        after = "" if facts.bus.is_running or facts.bus.error else f" && {facts.systemctl('restart gpumand')}"
        yield problem(str(one), why, f"edit {one.file}, then: {facts.ctl('config-check')}{after}")
    settings = facts.config.settings
    if settings is not None and not settings.consumers:
        why = "there is nothing to acquire"
        yield warning("no consumer is configured", why, facts.ctl_as_root("setup"))


def reload(facts: Facts) -> Iterator[Finding]:
    """The daemon has read the files since their last change."""
    read_usec = facts.status.get("configured_usec") if facts.status else None
    if not read_usec or facts.config.changed_usec <= read_usec + MARGIN_USEC:
        return
    since = datetime.fromtimestamp(facts.config.changed_usec / 1e6).astimezone()
    yield warning(
        f"{facts.config.changed_file} was changed at {since:%Y-%m-%d %H:%M:%S}, after the daemon read it",
        "the daemon still uses the previous configuration",
        facts.ctl_as_root("reload"),
    )


def footprints(facts: Facts) -> Iterator[Finding]:
    """The VRAM requirement of every consumer is known, and the declared value matches the measured one."""
    for name, entry in facts.entries.items():
        peak = (facts.learned.get(name) or {}).get("peak_mib")
        declared = int(entry.get("vram_resident_mib") or 0)
        if not declared:
            yield problem(
                f"the VRAM requirement of {name} is unknown",
                "it cannot be leased until the requirement is configured or measured",
                f"[consumers.{toml_key(name)}] vram_resident_mib = MIB, or vram_guess_mib = MIB until it is measured",
            )
            continue
        if peak is None or entry.get("vram_auto") or not Footprint(peaks_mib=(int(peak),)).contradicts(declared):
            continue
        if peak <= min(CONTEXT_MIB, declared // 4):
            continue  # a CUDA context without a model, as earlier versions recorded it
        why = (
            "other consumers may run out of memory"
            if peak > declared
            else "more VRAM is reserved than it needed in its measured loads; lower it only if they include its largest"
        )
        yield warning(
            f"{name} is declared with {mib(declared)}, but the measured peak is {mib(peak)}",
            why,
            f"[consumers.{toml_key(name)}] vram_resident_mib = {peak}",
        )


def room(facts: Facts) -> Iterator[Finding]:
    """Each consumer fits on a device, and the consumers that are never evicted fit together."""
    totals = [int(one["total_mib"]) for one in facts.status["devices"] if one.get("total_mib")] if facts.status else []
    if not totals or not facts.status:
        return
    cushion_mib = facts.config.settings.scheduler.cushion_mib if facts.config.settings else 0
    for entry in facts.entries.values():
        need, most = int(entry.get("vram_resident_mib") or 0) + cushion_mib, max(totals)
        if need > most:
            yield problem(
                f"{entry['name']} needs {mib(need)} with the cushion, but the largest device has {mib(most)}",
                "requests for it are always refused",
                "configure a smaller model; correct vram_resident_mib only if it is not the peak under load",
            )
    staying = [one for one in facts.entries.values() if one.get("pinned") or one.get("vram_managed")]
    if sum(int(one.get("vram_resident_mib") or 0) for one in staying) > sum(totals):
        yield _overcommitted(facts, staying, totals)


def _overcommitted(facts: Facts, staying: Sequence[Entry], totals: Sequence[int]) -> Finding:
    """The finding for consumers that are never evicted and need more than there is."""
    names = join_names([str(one["name"]) for one in staying])
    need = mib(sum(int(one.get("vram_resident_mib") or 0) for one in staying))
    if len(staying) == 1:
        what, why = f"{names} is never evicted and needs {need}", "it does not fit, and leaves no room for others"
        limits = "lower the server's own memory limit, then vram_resident_mib to match"
    else:
        what = f"{names} are never evicted and need {need} together"
        why = "they do not fit at the same time, and leave no room for other consumers"
        limits = "lower the servers' own memory limits, then vram_resident_mib to match"
    pinned = [str(one["name"]) for one in staying if one.get("pinned")]
    have = f"{plural(totals, 'the device has', 'the devices have')} {mib(sum(totals))}"
    fix = facts.ctl_as_root(f"unpin {quote(pinned[-1])}") if pinned else limits
    return problem(f"{what}, but {have}", why, fix)


def coexistence(facts: Facts) -> Iterator[Finding]:
    """Consumers that list each other in can_coexist_with do so on both sides."""
    if facts.config.settings is None:
        if not facts.config.problems:
            why = "can_coexist_with is in the configuration files, which cannot be read"
            yield unchecked("coexistence of consumers", why, facts.ctl_as_root("doctor"))
        return
    for name, spec in facts.consumers.items():
        for other in sorted(spec.can_coexist_with):
            if other in facts.consumers and name not in facts.consumers[other].can_coexist_with:
                yield from _one_sided(spec, facts.consumers[other])


def _one_sided(spec: ConsumerSpec, other: ConsumerSpec) -> Iterator[Finding]:
    """Loading ``spec`` spares ``other``, but not the reverse; no finding when ``spec`` is never evicted anyway."""
    if spec.vram_managed or spec.pinned:
        return
    both = ", ".join(toml_string(one) for one in sorted({*other.can_coexist_with, spec.name}))
    yield warning(
        f"can_coexist_with is one-sided: {spec.name} lists {other.name}, but {other.name} does not list {spec.name}",
        f"loading {spec.name} never evicts {other.name}, while loading {other.name} may evict {spec.name}",
        f"[consumers.{toml_key(other.name)}] can_coexist_with = [{both}]",
    )
