from __future__ import annotations

import random
from typing import Any

import pytest
from dbus_fast import Variant

from gpumand.bus import repeated_options
from gpumand.bus.options import Options, acquire_options
from gpumand.bus.repeated_options import RepeatedOptions
from gpumand.domain.errors import GpumandError, InvalidArgs

CHOICES: dict[str, tuple[tuple[str, Any], ...]] = {
    "lifetime": (("s", "ttl"), ("s", "connection"), ("s", "never"), ("as", ["ttl"]), ("v", Variant("s", "ttl"))),
    "ttl_usec": (("t", 5_000_000), ("i", 5_000_000), ("i", -1), ("b", True), ("d", 5e6), ("t", 1)),
    "priority": (("i", 1), ("y", 1), ("b", True), ("d", 1.0), ("i", 1000)),
    "restore": (("b", True), ("y", 1), ("b", False), ("i", 0)),
    "reason": (("s", "night run"), ("s", "two\nlines"), ("s", "x" * 2000), ("a{sv}", {})),
    "within": (("as", ["a"]), ("as", [])),
    "unknown": (("s", "x"),),
}


def random_options(draw: random.Random) -> dict[str, Variant]:
    names = draw.sample(list(CHOICES), draw.choice((0, 1, 1, 2, 3)))
    return {name: Variant(*draw.choice(CHOICES[name])) for name in names}


def outcome(check: Any, options: Options) -> object:
    try:
        return check(options)
    except GpumandError as error:
        return type(error), error.message


@pytest.mark.parametrize("seed", range(5))
def test_result_is_that_of_the_plain_check(seed: int) -> None:
    draw, repeated = random.Random(seed), RepeatedOptions()
    for _ in range(1000):
        options = random_options(draw)
        assert outcome(repeated.check, options) == outcome(acquire_options, options)


def test_equal_options_are_checked_once_and_refused_ones_each_time() -> None:
    repeated = RepeatedOptions()
    assert repeated.check({"lifetime": Variant("s", "ttl")}) is repeated.check({"lifetime": Variant("s", "ttl")})
    for _ in range(2):
        with pytest.raises(InvalidArgs):
            repeated.check({"lifetime": Variant("s", "never")})


def test_values_that_python_takes_for_equal_stay_apart() -> None:
    repeated = RepeatedOptions()
    assert repeated.check({"priority": Variant("i", 1)}).priority == 1
    with pytest.raises(InvalidArgs):
        repeated.check({"priority": Variant("b", True)})
    with pytest.raises(InvalidArgs):
        repeated.check({"priority": Variant("d", 1.0)})


def test_number_of_remembered_options_is_bounded() -> None:
    repeated = RepeatedOptions()
    for number in range(3 * repeated_options.MAX_KNOWN):
        assert repeated.check({"reason": Variant("s", f"run {number}")}).reason == f"run {number}"
        assert len(repeated._known) <= repeated_options.MAX_KNOWN
