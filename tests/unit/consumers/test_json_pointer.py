"""JSON pointers by RFC 6901, and the extensions for selectors and wildcards."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.consumers import json_pointer

RFC_DOCUMENT = {
    "foo": ["bar", "baz"],
    "": 0,
    "a/b": 1,
    "c%d": 2,
    "e^f": 3,
    "g|h": 4,
    "i\\j": 5,
    'k"l': 6,
    " ": 7,
    "m~n": 8,
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", RFC_DOCUMENT),
        ("/foo", ["bar", "baz"]),
        ("/foo/0", "bar"),
        ("/", 0),
        ("/a~1b", 1),
        ("/c%d", 2),
        ("/e^f", 3),
        ("/g|h", 4),
        ("/i\\j", 5),
        ('/k"l', 6),
        ("/ ", 7),
        ("/m~0n", 8),
    ],
)
def test_examples_of_the_rfc(text: str, value: object) -> None:
    assert json_pointer.resolve(RFC_DOCUMENT, text) == value


@pytest.mark.parametrize(
    "text", ["/nothing", "/foo/2", "/foo/-", "/foo/01", "/foo/-1", "/foo/+1", "/foo/٣", "/foo/0/x"]
)
def test_missing_value_is_a_lookup_error(text: str) -> None:
    with pytest.raises(LookupError):
        json_pointer.resolve(RFC_DOCUMENT, text)


@pytest.mark.parametrize("text", ["foo", "#/foo", "/a~b", "/a~", "/~2"])
def test_malformed_pointer_is_refused(text: str) -> None:
    with pytest.raises(json_pointer.PointerInvalid, match="JSON pointer"):
        json_pointer.parse(text)


def test_escaped_tilde_before_a_one_is_not_a_slash() -> None:
    assert json_pointer.parse("/~01") == ("~1",)


MODELS = {
    "data": [
        7,
        ["id"],
        {"id": 3, "n": 0},
        {"id": "llama/3", "n": 1},
        {"id": "a=b]", "n": 2},
        {"id": "llama/3", "n": 3},
        {"id": "", "n": 4},
    ],
    "texts": [{"": "a/b"}, 3, "a/b", ""],
    "[id=x]": "a key like any other",
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("/data/[id=llama~13]/n", 1),
        ("/data/[id=a=b]]/n", 2),
        ("/data/[id=]/n", 4),
        ("/data/3/n", 1),
        ("/texts/[=a~1b]", "a/b"),
        ("/texts/[=]", ""),
        ("/[id=x]", "a key like any other"),
    ],
)
def test_selector_finds_an_element_by_its_key(text: str, value: object) -> None:
    assert json_pointer.resolve(MODELS, text) == value


@pytest.mark.parametrize("text", ["/data/[id]", "/data/0/[id=x]", "/texts/0/[id=x]"])
def test_selector_that_is_not_applied_to_a_list_is_a_lookup_error(text: str) -> None:
    with pytest.raises(LookupError):
        json_pointer.resolve(MODELS, text)


@pytest.mark.parametrize(
    "text",
    [
        "/data/[id=none]",
        "/data/[name=x]",
        "/data/[=x]",
        "/data/[=7]",
        "/texts/[=a~1c]",
        "/data/[id=3]/n",
        "/data/[id=none]/n/m",
        "/data/[name=x]/n",
    ],
)
def test_selector_without_match_is_null_because_the_model_is_not_listed(text: str) -> None:
    assert json_pointer.resolve(MODELS, text) is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/slots/*/busy", [True, False]),
        ("/slots/1/busy", [False]),
        ("/none/*/busy", []),
        ("/*", None),
        ("/slots/*/nothing", None),
        ("/slots/*/busy/*", None),
        ("", [{"slots": [{"busy": True}, {"busy": False}], "none": []}]),
    ],
)
def test_wildcard_selects_every_element_of_a_list(text: str, found: list[object] | None) -> None:
    document = {"slots": [{"busy": True}, {"busy": False}], "none": []}

    if found is None:
        with pytest.raises(LookupError):
            json_pointer.resolve_all(document, text)
    else:
        assert json_pointer.resolve_all(document, text) == found


leaves = st.none() | st.booleans() | st.integers() | st.text()
documents = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


def _all_values(document: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found = [(path, document)]
    if isinstance(document, dict):
        inner = [(key, value) for key, value in document.items()]
    else:
        inner = [(str(index), value) for index, value in enumerate(document)] if isinstance(document, list) else []
    for token, value in inner:
        found += _all_values(value, (*path, token))
    return found


@given(documents)
def test_every_value_of_a_document_can_be_selected(document: Any) -> None:
    for path, value in _all_values(document):
        text = "".join("/" + json_pointer.escape(token) for token in path)
        assert json_pointer.parse(text) == path
        assert json_pointer.resolve(document, text) is value


@given(documents, st.text())
def test_any_text_raises_at_most_the_documented_errors(document: Any, text: str) -> None:
    with contextlib.suppress(LookupError, json_pointer.PointerInvalid):
        json_pointer.resolve(document, text)


@pytest.mark.parametrize(
    ("pointer", "names"),
    [
        ("/models/[name=c]/size", ["a", "b"]),
        ("/models/[name=a]/size", []),
        ("/names/[=z]", ["x"]),
        ("/models/0/name", []),
    ],
)
def test_names_that_a_selector_without_a_match_chooses_from(pointer: str, names: list[str]) -> None:
    document = {"models": [{"name": "a"}, {"name": "b"}, {"name": 3}, 4], "names": ["x", None]}
    assert json_pointer.choices(document, pointer) == names
