"""Values written as TOML are parsed back to the same values."""

from __future__ import annotations

import tomllib
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.config.presets import preset, preset_names
from gpumand.config.toml_writer import to_toml, toml_key

texts = st.text(st.characters(exclude_categories=["Cs"]))
leaves = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=12)


@given(texts, values)
def test_written_value_is_parsed_back(name: str, value: object) -> None:
    assert tomllib.loads(f"{toml_key(name)} = {to_toml(value)}") == {name: value}


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_parsed_back(name: str) -> None:
    table = preset(name).document.table

    assert tomllib.loads(f"x = {to_toml(table)}") == {"x": table}


def test_value_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError):
        to_toml(date(2026, 1, 1))
