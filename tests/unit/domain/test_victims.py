"""The limit on victims, and consumers that are no candidates."""

from __future__ import annotations

from dataclasses import replace

from gpumand.domain import victims
from gpumand.domain.consumer import EvictionMethod
from gpumand.domain.view import Job
from tests.unit.domain.build import absent, resident, view

SMALL = [resident(f"s{number}", 2000, used_at=number) for number in range(1, 5)]
LARGE = resident("large", 9000, used_at=9)


def chosen(state: object, deficit_mib: int, limit: int) -> list[str] | None:
    choice = victims.choose(state, (0,), absent("new", 12000), {0: deficit_mib}, limit)  # type: ignore[arg-type]
    return [one.consumer for one in choice.victims] if choice.suffices else None


def test_lru_order_is_used_within_the_limit() -> None:
    assert chosen(view(*SMALL, LARGE), 7000, limit=4) == ["s1", "s2", "s3", "s4"]


def test_the_largest_is_evicted_where_lru_order_exceeds_the_limit() -> None:
    assert chosen(view(*SMALL, LARGE), 7000, limit=3) == ["large"]


def test_nothing_is_evicted_where_no_set_within_the_limit_suffices() -> None:
    assert chosen(view(*SMALL), 7000, limit=3) is None
    assert chosen(view(LARGE), 7000, limit=0) is None


def test_a_victim_of_another_job_is_no_candidate() -> None:
    unknown = replace(LARGE, devices=())

    assert chosen(view(unknown), 7000, limit=5) == ["large"]
    assert chosen(view(unknown, jobs={1: Job((1,), "other", evicting=("large",))}), 7000, limit=5) is None


def test_an_unloaded_consumer_can_be_evicted_if_it_holds_more_than_a_context() -> None:
    says_unloaded = absent("image", 13312)
    on_it = replace(says_unloaded, devices=(0,))

    assert chosen(view(on_it, held={"image": 13312}), 7000, limit=5) == ["image"]
    by_route = replace(on_it, spec=replace(on_it.spec, evict=(EvictionMethod.HTTP,)))
    assert chosen(view(by_route, held={"image": 500}), 400, limit=5) is None


def test_the_unit_of_an_unloaded_consumer_is_stopped_only_for_a_context_that_is_needed() -> None:
    on_it = replace(absent("image", 13312), devices=(0,))
    other = resident("other", 5000, used_at=9)
    host = view(on_it, other, held={"image": 500})

    assert chosen(host, 400, limit=5) == ["other"]
    choice = victims.choose(view(on_it, held={"image": 500}), (0,), absent("new", 12000), {0: 400}, 5)
    assert [(one.consumer, one.method) for one in choice.victims] == [("image", "unit-stop")]
