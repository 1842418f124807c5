"""Announcement files with any content are parsed or refused."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from gpumand.vram.simulated_files import MAX_CONSUMER, MAX_MIB, AnnouncedUse, InvalidAnnouncement, parse

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["mib", "device", "x"]), inner),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {"mib": values | st.integers(0, 100)},
    optional={"device": values | st.integers(0, 3), "consumer": values | st.just("a"), "name": values},
)


def check(content: bytes) -> None:
    try:
        found = parse(7, content, 2)
    except InvalidAnnouncement as error:
        message = str(error)
    else:
        message = "none"
        check_found(content, found)
    assert "\n" not in message


def check_found(content: bytes, found: tuple[AnnouncedUse, ...]) -> None:
    assert len({entry.device for entry in found}) == len(found)
    for entry in found:
        assert (entry.pid, entry.device in (0, 1)) == (7, True)
        assert 0 <= entry.mib <= MAX_MIB * len(content)
        assert entry.consumer.isprintable()
        assert len(entry.consumer) <= MAX_CONSUMER
        assert entry.name.isprintable()


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(content: bytes) -> None:
    check(content)


@given(entries | st.lists(entries, max_size=4) | values)
def test_any_json_is_parsed_or_refused(value: object) -> None:
    check(json.dumps(value).encode())


def test_zero_is_a_valid_size() -> None:
    [entry] = parse(7, b"0", 1)
    assert (entry.mib, entry.device) == (0, 0)


def test_empty_list_announces_nothing() -> None:
    assert parse(7, b"[]", 1) == ()
