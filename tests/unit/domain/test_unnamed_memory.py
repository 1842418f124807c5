"""Unnamed memory in the arithmetic of VRAM: credited once, and never to a load that is running."""

from __future__ import annotations

from dataclasses import replace

from gpumand.domain import budget, victims
from gpumand.domain.device import Pool
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState, View
from tests.unit.domain.build import absent, resident, view


def with_unnamed(before: View, mib: int, **more: object) -> View:
    sample = before.devices[0]
    used_mib = (sample.used_mib or 0) + mib
    sample = replace(sample, used_mib=used_mib, free_mib=(sample.total_mib or 0) - used_mib, **more)  # type: ignore[arg-type]
    return replace(before, devices={0: sample})


def freeable(before: View, *names: str) -> dict[str, int]:
    return victims.freeable_by_consumer(before, 0, [before.consumers[name] for name in names])


def test_unnamed_memory_is_what_no_process_accounts_for() -> None:
    before = view(resident("a", 5000), foreign_mib=2000)
    assert budget.unnamed_mib(before.devices[0]) == 0
    assert budget.unnamed_mib(with_unnamed(before, 3000).devices[0]) == 3000
    assert budget.unnamed_mib(view(known=False).devices[0]) is None


def test_it_is_credited_to_one_victim_only() -> None:
    before = with_unnamed(view(resident("a", 8000), resident("b", 8000), held={"a": 500, "b": 500}), 9000)
    assert freeable(before, "a", "b") == {"a": 8000, "b": 500 + 1500}


def test_it_is_credited_up_to_the_footprint() -> None:
    before = with_unnamed(view(resident("a", 8000), held={"a": 500}), 15000)
    assert freeable(before, "a") == {"a": 8000}


def test_a_small_amount_is_the_driver_and_not_the_consumer() -> None:
    before = with_unnamed(view(resident("a", 8000), held={"a": 7000}), 600)
    assert freeable(before, "a") == {"a": 7000}


def test_it_is_not_credited_to_a_consumer_that_is_not_loaded() -> None:
    lazy = resident("a", 8000, load=None)
    before = with_unnamed(view(lazy, held={"a": 4000}), 5000)
    assert freeable(before, "a") == {"a": 4000}


def test_memory_of_a_running_load_is_not_credited_to_a_victim() -> None:
    state = absent("new", 9000)
    loading = ConsumerState(state.spec, residency=Residency.LOADING, devices=(0,), claimed_at=5.0, baseline_mib={0: 0})
    before = view(resident("a", 8000), loading, held={"a": 500})
    # The driver cannot tell which memory is that of the load.
    sample = replace(before.devices[0], attributable=frozenset({"a"}))
    before = with_unnamed(replace(before, devices={0: sample}), 5000)
    assert freeable(before, "a") == {"a": 0}, "it holds a context, and no route unloads that"
    assert budget.reserved_by_consumer(before, 0) == {"new": 4000}


def test_host_ram_of_other_programs_is_not_credited_on_unified_memory() -> None:
    before = with_unnamed(view(resident("a", 8000), held={"a": 4000}), 5000, pool=Pool.UNIFIED)
    assert freeable(before, "a") == {"a": 4000}


def test_a_lease_keeps_its_reserve_where_the_model_is_named() -> None:
    """The consumer may still grow, and the unnamed memory may be that of others."""
    before = with_unnamed(view(resident("a", 8000, leases=1), held={"a": 4000}), 5000)
    assert budget.reserved_by_consumer(before, 0) == {"a": 4000}
    context_only = with_unnamed(view(resident("a", 8000, leases=1), held={"a": 500}), 7500)
    assert budget.reserved_by_consumer(context_only, 0) == {"a": 0}
