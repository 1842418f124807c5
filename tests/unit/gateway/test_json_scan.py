"""The members that decide about a request are found without building the document, and ambiguous ones are refused."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.gateway.json_scan import MAX_MEMBERS, MAX_TOKENS, BadJson, replaced, scan

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda some: st.lists(some) | st.dictionaries(st.text(), some), max_leaves=20)
KEYS = st.text().filter(lambda key: key.casefold() != "model")


def test_members_are_found_and_nested_ones_are_not() -> None:
    found = scan(
        b' {"messages": [{"model": "inner", "x": "]}"}], "model" : "a/b", "stream":true, "n": -1.5e3, "e": []} '
    )

    assert found.members == {"messages": True, "model": "a/b", "stream": True, "n": -1500.0, "e": False}


@given(st.dictionaries(KEYS, VALUES, max_size=8), st.text(max_size=50), st.booleans())
def test_members_are_those_that_json_reads(before: dict[str, Any], model: str, is_ascii: bool) -> None:
    document = {**before, "model": model}
    text = json.dumps(document, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")

    found = scan(text)

    scalars = {key: value for key, value in document.items() if not isinstance(value, list | dict)}
    assert {key: found.members[key] for key in scalars} == scalars
    assert all(found.members[key] == bool(value) for key, value in document.items() if key not in scalars)


@given(st.dictionaries(KEYS, VALUES, max_size=5), st.text(max_size=20), st.text(max_size=20))
def test_rename_changes_the_model_only(others: dict[str, Any], old: str, new: str) -> None:
    text = json.dumps({"model": old, **others}, indent=1).encode()
    span = scan(text).model_span

    assert span is not None
    assert json.loads(replaced(text, span, new)) == {"model": new, **others}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b'"model"',
        b"{",
        b'{"a"}',
        b'{"a":}',
        b'{"a":1',
        b'{"a":1,}',
        b'{"a":1 "b":2}',
        b'{"a":[1}',
        b'{"a":"b}',
        b'{"a":1} {"model":"b"}',
        b"{'model':'a'}",
        b'\xef\xbb\xbf{"model":"a"}',
        '{"model":"a"}'.encode("utf-16"),
        b'{"a":tru}',
        b'{"\xff":1}',
    ],
)
def test_texts_that_are_no_json_object_are_refused(text: bytes) -> None:
    with pytest.raises(BadJson):
        scan(text)


@pytest.mark.parametrize(
    "text",
    [
        b'{"model":"a","model":"b"}',
        b'{"model":"a","mod\\u0065l":"b"}',
        b'{"model":"a","Model":"b"}',
        b'{"MODEL":"a"}',
        b'{"model":"a","x":[],"model":{"y":1}}',
    ],
)
def test_model_that_programs_read_in_different_ways_is_refused(text: bytes) -> None:
    with pytest.raises(BadJson, match="once"):
        scan(text)


def test_escaped_name_of_the_member_counts() -> None:
    assert scan(b'{"mod\\u0065l":"a"}').members["model"] == "a"


def test_large_documents_are_read_quickly_and_hostile_ones_are_refused() -> None:
    image = b'{"image":"' + b"A" * (50 << 20) + b'","model":"a"}'
    began = time.thread_time()  # a busy machine takes longer
    assert scan(image).members == {"image": True, "model": "a"}
    assert time.thread_time() - began < 5

    with pytest.raises(BadJson):
        scan(b'{"a":' + b"[" * (MAX_TOKENS + 2))
    with pytest.raises(BadJson):
        scan(b'{"a":[' + b"[]," * MAX_TOKENS + b'[]],"model":"b"}')
    with pytest.raises(BadJson, match="members"):
        scan(b"{" + b",".join(b'"%d":1' % number for number in range(MAX_MEMBERS + 1)) + b"}")


def test_another_member_can_name_the_model() -> None:
    found = scan(b'{"name": "a", "x": 1}', "name")

    assert found.model_span is not None
    assert replaced(b'{"name": "a", "x": 1}', found.model_span, "b") == b'{"name": "b", "x": 1}'
    with pytest.raises(BadJson, match="name must be given once"):
        scan(b'{"name":"a","Name":"b"}', "name")
