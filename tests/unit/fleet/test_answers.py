"""Answers of agents that are broken or hostile: checked before a router acts on them or passes them on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumand.fleet.answers import parse_answer, parse_end, parse_grant, quoted_sec
from gpumand.fleet.attempts import quote_of
from gpumand.fleet.calls import dump_line
from gpumand.fleet.errors import StaleToken, error_of
from gpumand.fleet.json_fields import InvalidJson

GRANT: dict[str, Any] = {
    "lease": "38a640",
    "host": "gpu2",
    "machine_id": f"{2:032x}",
    "consumer": "llm",
    "device": "0",
    "endpoint": "http://gpu2:8770",
    "evicted": ["comfyui"],
    "loaded": True,
    "waited_sec": 1.5,
}
HOSTILE: list[Any] = [
    None,
    True,
    -1,
    10**400,
    1e308,
    "",
    "\x1b[2J\n\x00",
    "x" * 10_000,
    [],
    {},
    [1],
    ["\x07"],
    [{}] * 2000,
]


def test_grant_is_passed_on_as_it_is_with_keys_of_newer_versions() -> None:
    assert parse_grant(dict(GRANT)) == GRANT
    assert parse_grant(GRANT | {"later": {"a": 1}})["later"] == {"a": 1}


@pytest.mark.parametrize("lease", [None, "", 7, "a\nb", "x" * 200])
def test_answer_without_the_id_of_a_lease_is_no_grant(lease: Any) -> None:
    with pytest.raises(InvalidJson):
        parse_grant(GRANT | {"lease": lease})


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("key", sorted(GRANT.keys() - {"lease"}))
def test_grant_that_is_accepted_has_only_values_that_clients_can_use(key: str, value: Any) -> None:
    try:
        found: dict[str, Any] = parse_grant(GRANT | {key: value})
    except InvalidJson:
        return
    for name in ("host", "machine_id", "consumer", "device", "endpoint"):
        assert isinstance(found[name], str)
        assert found[name].isprintable()
        assert len(found[name]) <= 2048
    assert isinstance(found["loaded"], bool)
    assert all(isinstance(one, str) and one.isprintable() for one in found["evicted"])
    assert 0 <= found["waited_sec"] < 1e16
    dump_line(found)


NO_OBJECTS = [b"", b"[]", b"null", b'{"a":NaN}', b"[" * 5000, b"\xff", b'{"a":' + b"[" * 50 + b"]" * 50 + b"}"]


@pytest.mark.parametrize("data", NO_OBJECTS, ids=range(len(NO_OBJECTS)))
def test_what_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|decode|nested"):
        parse_answer(data)


def test_end_of_a_lease_is_one_line() -> None:
    assert parse_end({"ended": "revoked"}) == "revoked"
    assert parse_end({"ended": "a\nb\x1b"}) == "a b "
    assert (parse_end({"ended": 5}), parse_end({}), len(parse_end({"ended": "x" * 9999}))) == ("", "", 256)


@pytest.mark.parametrize("value", [*HOSTILE, float("nan"), 1.5], ids=range(len(HOSTILE) + 2))
def test_plan_with_a_time_that_cannot_be_one_has_an_unknown_time(value: Any) -> None:
    quote = quote_of({"verdict": "wait", "expected_usec": value, "victims_usec": value})
    assert (quote.expected_sec, quote.victims_sec) == (None, 0.0)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["verdict", "expected_usec", "victims_usec", "message"]), st.sampled_from(HOSTILE))
)
def test_any_plan_is_a_quote(plan: dict[str, Any]) -> None:
    quote = quote_of(plan)
    assert quote.message.isprintable()
    assert quote.expected_sec is None or quote.expected_sec >= 0


def test_times_of_plans_are_seconds() -> None:
    assert (quoted_sec(2_500_000), quoted_sec(0)) == (2.5, 0.0)


def test_refusal_with_a_revision_that_no_store_can_have_is_one_without() -> None:
    for seen in (-1, 10**400, "7", None):
        error = error_of({"error": StaleToken.dbus_name, "message": "old\x1b", "seen": seen}, "gpu2")
        assert isinstance(error, StaleToken)
        assert (error.seen, error.message) == (0, "gpu2: old")
