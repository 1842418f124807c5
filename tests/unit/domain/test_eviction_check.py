"""What VRAM readings prove about an eviction, and what they do not."""

from __future__ import annotations

from dataclasses import replace

from gpumand.domain.device import Sample
from gpumand.domain.eviction_check import EvictionCheck
from tests.unit.domain.build import resident, spec, view

BEFORE = view(resident("a", 8000), foreign_mib=9000).devices[0]
AFTER = view(resident("a", 8000), held={"a": 0}, foreign_mib=9000).devices[0]
BLIND = replace(BEFORE, used_mib=None, free_mib=None, processes=(), attributed=False, attributable=frozenset())


def measured(before: Sample, held_mib: int | None) -> EvictionCheck:
    return EvictionCheck(spec("a", 8000), before, held_mib, 8000)


def test_memory_that_the_device_shows_as_free_is_freed() -> None:
    assert measured(BEFORE, 8000).freed_mib(AFTER) == 8000
    assert measured(BEFORE, 8000).settled(AFTER)


def test_missing_readings_prove_nothing() -> None:
    check = measured(BEFORE, 8000)

    assert check.can_be_measured
    assert check.freed_mib(BLIND) is None
    assert not check.settled(BLIND)
    assert not check.released_by_processes(BLIND)


def test_without_a_reading_beforehand_nothing_can_be_measured() -> None:
    assert not measured(BLIND, None).can_be_measured


def test_memory_missing_from_the_process_list_alone_is_not_free() -> None:
    no_longer_listed = replace(AFTER, used_mib=BEFORE.used_mib, free_mib=BEFORE.free_mib)

    assert not measured(BEFORE, 8000).settled(no_longer_listed)
