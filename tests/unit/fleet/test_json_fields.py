"""Numbers in the JSON of other hosts."""

from __future__ import annotations

import pytest

from gpumand.fleet.json_fields import MAX_NUMBER, is_integer, is_number, refuse_constant


@pytest.mark.parametrize(
    ("value", "integer", "number"),
    [
        (0, True, True),
        (MAX_NUMBER, True, True),
        (1.5, False, True),
        (0.0, False, True),
        (-1, False, False),
        (-0.5, False, False),
        (MAX_NUMBER + 1, False, False),
        (2.0**54, False, False),
        (float("inf"), False, False),
        (float("nan"), False, False),
        (True, False, False),
        ("1", False, False),
        (None, False, False),
        ([1], False, False),
    ],
)
def test_only_finite_numbers_from_0_that_every_parser_reads_exactly_are_numbers(
    value: object, integer: bool, number: bool
) -> None:
    assert (is_integer(value), is_number(value)) == (integer, number)


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_constants_that_are_no_json_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is not JSON"):
        refuse_constant(name)
