"""The cheapest set that is large enough, against trying every set."""

from __future__ import annotations

from itertools import combinations
from random import Random

import pytest

from gpumand.domain.cheapest_set import Item, cheapest
from gpumand.domain.cheapest_set_multi import WideItem, cheapest_on_all


def tried(items: list[Item], need_mib: int, limit: int) -> float | None:
    """The least value of all sets that suffice."""
    sets = (one for count in range(limit + 1) for one in combinations(items, count))
    return min((sum(i.value for i in one) for one in sets if sum(i.mib for i in one) >= need_mib), default=None)


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 5, 9])
@pytest.mark.parametrize("seed", range(25))
def test_no_set_is_cheaper(seed: int, limit: int) -> None:
    random = Random(seed)
    items = [Item(place, random.uniform(0.1, 9), random.randrange(1, 100)) for place in range(9)]
    need_mib = random.randrange(1, 300)

    places = cheapest(items, need_mib, limit)

    least = tried(items, need_mib, limit)
    if least is None:
        assert places is None, f"seed {seed}"
    else:
        assert places is not None, f"seed {seed}"
        assert len(places) <= limit
        assert sum(items[place].mib for place in places) >= need_mib
        assert sum(items[place].value for place in places) == pytest.approx(least), f"seed {seed}"


def test_nothing_is_needed_and_nothing_taken() -> None:
    assert cheapest([Item(0, 1.0, 10)], 0, 5) == []


def test_one_large_goes_before_two_small_that_are_worth_more() -> None:
    items = [Item(0, 2.0, 50), Item(1, 2.0, 50), Item(2, 3.0, 100)]

    assert cheapest(items, 100, 5) == [2]


def test_of_equals_the_first_goes() -> None:
    assert cheapest([Item(place, 1.0, 10) for place in range(5)], 10, 5) == [0]


def test_a_thousand_are_decided_upon_at_once() -> None:
    random = Random(0)
    items = [Item(place, random.uniform(0.1, 9), random.randrange(1, 9000)) for place in range(1000)]

    places = cheapest(items, 20_000, 5)

    assert places is not None
    assert sum(items[place].mib for place in places) >= 20_000
    greedy = sorted(items, key=lambda one: -one.mib)[:5]
    assert sum(items[place].value for place in places) < sum(one.value for one in greedy)


def test_so_many_that_none_is_better_than_another_are_no_endless_descent() -> None:
    random = Random(1)
    items = [Item(place, mib * random.uniform(1.0, 1.001), mib) for place, mib in enumerate(range(10, 30_010, 10))]
    wide = [WideItem(one.place, one.value, (one.mib, one.mib // 2)) for one in items]

    assert cheapest(items, 12_345, 5) is not None
    assert cheapest_on_all(wide, (12_345, 3_000), 5) is not None
