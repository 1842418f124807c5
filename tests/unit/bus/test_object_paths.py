from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.bus.object_paths import escape_label, unescape_label


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("comfyui.service", "comfyui_2eservice"),
        ("2fast", "_32fast"),
        ("fast2", "fast2"),
        ("", "_"),
        ("_", "_5f"),
        ("a-b@c", "a_2db_40c"),
        ("é", "_c3_a9"),
    ],
)
def test_labels_are_escaped_like_systemds(name: str, label: str) -> None:
    assert escape_label(name) == label
    assert unescape_label(label) == name


@given(st.text())
def test_escaping_is_reversible(name: str) -> None:
    label = escape_label(name)
    assert unescape_label(label) == name
    assert label.isascii()
    assert label.replace("_", "a").isalnum()


@pytest.mark.parametrize("label", ["a-b", "2fast", "_2", "_zz", "_61", "a/b", "", "_C3_A9"])
def test_invalid_label_is_refused(label: str) -> None:
    with pytest.raises(ValueError, match="not an escaped label"):
        unescape_label(label)
