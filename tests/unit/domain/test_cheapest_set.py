"""The cheapest set that is large enough, compared with trying every set."""

from __future__ import annotations

from itertools import combinations
from random import Random

import pytest

from gpumand.domain.cheapest_set import Item, cheapest
from gpumand.domain.cheapest_set_multi import MultiDeviceItem, cheapest_on_all


def lowest_cost(items: list[Item], need_mib: int, limit: int) -> float | None:
    """The lowest cost of all sets that suffice."""
    sets = (one for count in range(limit + 1) for one in combinations(items, count))
    return min((sum(i.cost for i in one) for one in sets if sum(i.mib for i in one) >= need_mib), default=None)


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 5, 9])
@pytest.mark.parametrize("seed", range(25))
def test_no_set_is_cheaper(seed: int, limit: int) -> None:
    random = Random(seed)
    items = [Item(place, random.uniform(0.1, 9), random.randrange(1, 100)) for place in range(9)]
    need_mib = random.randrange(1, 300)

    places = cheapest(items, need_mib, limit)

    least = lowest_cost(items, need_mib, limit)
    if least is None:
        assert places is None, f"seed {seed}"
    else:
        assert places is not None, f"seed {seed}"
        assert len(places) <= limit
        assert sum(items[place].mib for place in places) >= need_mib
        assert sum(items[place].cost for place in places) == pytest.approx(least), f"seed {seed}"


def test_no_need_takes_nothing() -> None:
    assert cheapest([Item(0, 1.0, 10)], 0, 5) == []


def test_one_large_item_is_taken_instead_of_two_small_ones_that_cost_more() -> None:
    items = [Item(0, 2.0, 50), Item(1, 2.0, 50), Item(2, 3.0, 100)]

    assert cheapest(items, 100, 5) == [2]


def test_of_equal_items_the_first_is_taken() -> None:
    assert cheapest([Item(place, 1.0, 10) for place in range(5)], 10, 5) == [0]


def test_a_thousand_items_are_searched_at_once() -> None:
    random = Random(0)
    items = [Item(place, random.uniform(0.1, 9), random.randrange(1, 9000)) for place in range(1000)]

    places = cheapest(items, 20_000, 5)

    assert places is not None
    assert sum(items[place].mib for place in places) >= 20_000
    greedy = sorted(items, key=lambda one: -one.mib)[:5]
    assert sum(items[place].cost for place in places) < sum(one.cost for one in greedy)


def test_thousands_of_nearly_equal_items_end_the_search() -> None:
    random = Random(1)
    items = [Item(place, mib * random.uniform(1.0, 1.001), mib) for place, mib in enumerate(range(10, 30_010, 10))]
    wide = [MultiDeviceItem(one.index, one.cost, (one.mib, one.mib // 2)) for one in items]

    assert cheapest(items, 12_345, 5) is not None
    assert cheapest_on_all(wide, (12_345, 3_000), 5) is not None
