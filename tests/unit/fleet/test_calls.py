"""The bodies of requests to agents and to the local API, also from hostile clients."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.domain.errors import GpumandError, InvalidArgs, NoSuchConsumer
from gpumand.domain.request_limits import MAX_WAIT_SEC
from gpumand.fleet.calls import (
    MAX_BODY_BYTES,
    AcquireCall,
    Basis,
    DrainCall,
    parse_acquire,
    parse_drain,
    parse_load,
    parse_plan,
)

FULL = AcquireCall(
    "chat",
    wait_sec=5.5,
    priority=-3,
    device="0",
    reason="a poster",
    restore=True,
    exclusive=True,
    user="alice",
    basis=Basis.INTENT,
    revision=7,
    via="gpu1/0001",
)


@pytest.mark.parametrize("call", [FULL, AcquireCall("chat"), AcquireCall("chat", wait_sec=0.0, priority=0)])
def test_call_survives_the_way_to_another_host(call: AcquireCall) -> None:
    assert parse_acquire(json.dumps(call.body())) == call


def test_host_that_was_asked_for_is_not_sent_on() -> None:
    assert "on" not in AcquireCall("chat", on="gpu2").body()


def test_unlimited_wait_is_a_day() -> None:
    for wait in (None, 1e12):
        assert parse_acquire(json.dumps({"consumer": "chat", "wait_sec": wait})).wait_sec == MAX_WAIT_SEC


def test_misspelt_key_is_refused_with_the_right_one() -> None:
    with pytest.raises(InvalidArgs, match=r"unknown key 'wait': did you mean 'wait_sec'\?"):
        parse_acquire('{"consumer": "chat", "wait": 5}')


def test_drain_is_the_default_and_can_be_ended() -> None:
    assert parse_drain('{"on": "gpu2"}') == DrainCall(True, "gpu2")
    assert parse_drain('{"on": "gpu2", "drain": false}') == DrainCall(False, "gpu2")


@pytest.mark.parametrize(
    "body",
    [
        "",
        "null",
        "[]",
        '"chat"',
        "{",
        "[" * 10000,
        '{"consumer": "chat"} x',
        "{}",
        '{"consumer": ""}',
        '{"consumer": 5}',
        '{"consumer": ["chat"]}',
        '{"consumer": "chat", "wait_sec": "5"}',
        '{"consumer": "chat", "wait_sec": true}',
        '{"consumer": "chat", "wait_sec": -1}',
        '{"consumer": "chat", "wait_sec": NaN}',
        '{"consumer": "chat", "wait_sec": 1e400}',
        '{"consumer": "chat", "priority": 1.5}',
        '{"consumer": "chat", "priority": 101}',
        '{"consumer": "chat", "priority": true}',
        '{"consumer": "chat", "revision": -1}',
        '{"consumer": "chat", "revision": "7"}',
        '{"consumer": "chat", "basis": "root"}',
        '{"consumer": "chat", "basis": {}}',
        '{"consumer": "chat", "reason": "a\\u001b[2J"}',
        '{"consumer": "chat", "reason": "a\\ud800"}',
        '{"consumer": "chat", "user": "alice\\nroot"}',
        json.dumps({"consumer": "chat", "reason": "x" * 600}),
        json.dumps({"consumer": "chat", "reason": "x" * MAX_BODY_BYTES}),
        '{"consumer": "chat", "restore": 1}',
        '{"consumer": "chat", "exclusive": "yes"}',
    ],
)
def test_invalid_body_is_refused_in_one_line(body: str) -> None:
    with pytest.raises(InvalidArgs) as refusal:
        parse_acquire(body)
    assert refusal.value.message
    assert refusal.value.message.isprintable()


@pytest.mark.parametrize("name", ["../gpu1", "a b", "-x", "a/b", "ü"])
def test_name_that_no_consumer_can_have_is_refused(name: str) -> None:
    for parse in (parse_acquire, parse_load, parse_plan):
        with pytest.raises(NoSuchConsumer):
            parse(json.dumps({"consumer": name}))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from([*AcquireCall.__dataclass_fields__, "drain", "x"])


@given(st.text(max_size=50) | st.dictionaries(keys, values, max_size=6).map(json.dumps))
def test_any_body_is_parsed_or_refused_in_words(body: str) -> None:
    for parse in (parse_acquire, parse_load, parse_plan, parse_drain):
        with suppress(GpumandError):
            parse(body)
