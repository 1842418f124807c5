"""Are the files good, in force, and do they say what is true?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from shlex import quote

from gpumand.cli.doctor.facts import Facts
from gpumand.cli.doctor.finding import Finding, problem, unchecked, warning
from gpumand.cli.render.format import listed, mib
from gpumand.config.toml_writer import key, quoted
from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.footprint import Footprint

MARGIN_USEC = 1_000_000
"""A file written in the second in which it was read may or may not have been read."""


def files(facts: Facts) -> Iterator[Finding]:
    """They can be read, have no mistake in them, and name a consumer."""
    for path in facts.config.unreadable:
        yield unchecked(f"the configuration in {path}", "you may not read it", facts.root_ctl("doctor"))
    for one in facts.config.problems:
        why = "the daemon will not start with it, and a reload is refused"
        yield problem(str(one), why, f"edit {one.file}, then: {facts.ctl('config-check')}")
    settings = facts.config.settings
    if settings is not None and not settings.consumers:
        made = "mkdir -p ~/.config/gpumand/conf.d && " if facts.user else ""  # the package makes that in /etc
        where = "~/.config/gpumand/conf.d/found.toml" if facts.user else "/etc/gpumand/conf.d/found.toml"
        why = "so there is nothing that could be lent"
        yield warning("no consumer is configured", why, made + facts.root_ctl(f"init -o {where}"))


def reload(facts: Facts) -> Iterator[Finding]:
    """The daemon has read the files since they were changed."""
    read_usec = facts.status.get("configured_usec") if facts.status else None
    if not read_usec or facts.config.changed_usec <= read_usec + MARGIN_USEC:
        return
    since = datetime.fromtimestamp(facts.config.changed_usec / 1e6).astimezone()
    yield warning(
        f"{facts.config.changed_file} was changed at {since:%Y-%m-%d %H:%M:%S}, after the daemon read it",
        "what is in force is what was there before",
        facts.root_ctl("reload"),
    )


def footprints(facts: Facts) -> Iterator[Finding]:
    """What is declared is what was measured, or at least one of the two is there."""
    for name, entry in facts.entries.items():
        peak = (facts.learned.get(name) or {}).get("peak_mib")
        declared = int(entry.get("vram_resident_mib") or 0)
        if not declared:
            yield problem(
                f"nobody knows how much VRAM {name} needs",
                "it is not lent until that is written, or was measured while it ran",
                f"[consumers.{key(name)}] vram_resident_mib = MIB, or vram_guess_mib = MIB until it is measured",
            )
            continue
        if peak is None or entry.get("vram_auto") or not Footprint(peaks_mib=(int(peak),)).contradicts(declared):
            continue
        why = "others run out of memory beside it" if peak > declared else "room is kept for it that it does not need"
        yield warning(
            f"{name} is declared with {mib(declared)} and was measured with up to {mib(peak)}",
            why,
            f"[consumers.{key(name)}] vram_resident_mib = {peak}",
        )


def room(facts: Facts) -> Iterator[Finding]:
    """Each consumer fits by itself, and what is never evicted leaves room for the others."""
    totals = [int(one["total_mib"]) for one in facts.status["devices"] if one.get("total_mib")] if facts.status else []
    if not totals or not facts.status:
        return
    cushion_mib = facts.config.settings.scheduler.cushion_mib if facts.config.settings else 0
    for entry in facts.entries.values():
        need, most = int(entry.get("vram_resident_mib") or 0) + cushion_mib, max(totals)
        if need > most:
            yield problem(
                f"{entry['name']} needs {mib(need)} with the cushion, and the largest device has {mib(most)}",
                "it will never be granted",
                f"[consumers.{key(str(entry['name']))}] vram_resident_mib = …",
            )
    staying = [one for one in facts.entries.values() if one.get("pinned") or one.get("vram_managed")]
    need_mib = sum(int(one.get("vram_resident_mib") or 0) for one in staying)
    if need_mib > sum(totals):
        names = listed([str(one["name"]) for one in staying])
        pinned = [str(one["name"]) for one in staying if one.get("pinned")]
        yield problem(
            f"{names} are never evicted, and need {mib(need_mib)} together; there are {mib(sum(totals))}",
            "they do not fit together, and nothing else fits beside them",
            facts.root_ctl(f"unpin {quote(pinned[-1])}")
            if pinned
            else "lower their vram_resident_mib, or their own limits",
        )


def coexistence(facts: Facts) -> Iterator[Finding]:
    """Who names another in can_coexist_with is named by it."""
    if facts.config.settings is None:
        if not facts.config.problems:
            why = "only the files say it, and they cannot be read"
            yield unchecked("who may stay beside whom", why, facts.root_ctl("doctor"))
        return
    for name, spec in facts.consumers.items():
        for other in sorted(spec.can_coexist_with):
            if other in facts.consumers and name not in facts.consumers[other].can_coexist_with:
                yield from _one_sided(spec, facts.consumers[other])


def _one_sided(spec: ConsumerSpec, other: ConsumerSpec) -> Iterator[Finding]:
    """Loading ``spec`` spares ``other``; loading ``other`` does not spare ``spec``, unless nothing evicts it anyway."""
    if spec.vram_managed or spec.pinned:
        return
    both = ", ".join(quoted(one) for one in sorted({*other.can_coexist_with, spec.name}))
    yield warning(
        f"{spec.name} may stay beside {other.name}, but not the other way round",
        f"loading {spec.name} never evicts {other.name}, while loading {other.name} may evict {spec.name}",
        f"[consumers.{key(other.name)}] can_coexist_with = [{both}]",
    )
