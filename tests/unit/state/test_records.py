"""What is read back is what was written, or nothing at all."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.domain.device import devices_text
from gpumand.domain.lease import Lease, LeaseLifetime, Owner
from gpumand.state.folder import Unfit
from gpumand.state.records import (
    LEASE_ID,
    MAX_USEC,
    KeptConsumer,
    KeptLease,
    KeptLoad,
    consumer_stem,
    decode_consumer,
    decode_lease,
    decode_load,
    encode_consumer,
    encode_lease,
    encode_load,
)

CHARS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXTS = st.text(CHARS, max_size=20)
USECS = st.integers(0, MAX_USEC)
OWNERS = st.builds(Owner, TEXTS, st.integers(0, 2**32 - 1), st.integers(0, 2**22), TEXTS, TEXTS)
LEASES = st.builds(
    Lease,
    id=st.from_regex(LEASE_ID, fullmatch=True),
    consumer=st.text(CHARS, min_size=1, max_size=20),
    device=st.lists(st.integers(0, 9999), min_size=1, max_size=64, unique=True).map(
        lambda one: devices_text(tuple(one))
    ),
    owner=OWNERS,
    lifetime=st.sampled_from(LeaseLifetime),
    granted_usec=USECS,
    expires_usec=USECS,
    ttl_sec=st.floats(0, 1e9),
    reason=TEXTS,
    token=TEXTS,
    uuids=st.lists(st.text(CHARS, min_size=1, max_size=20), max_size=64).map(tuple),
)
LEASE = Lease("a1", "tts", "0", Owner(":1.5", 1000), LeaseLifetime.TTL, 5, 9, 4.0, "why", "t", ("GPU-1",))
KEPT = KeptLease(LEASE, "bus", "boot")
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.just("x" * 1025), st.lists(TEXTS), st.just({"a": 1})
)


@given(LEASES, TEXTS, TEXTS)
def test_lease_comes_back_as_it_was(lease: Lease, bus_id: str, boot_id: str) -> None:
    kept = KeptLease(lease, bus_id, boot_id)

    assert decode_lease(lease.id, encode_lease(kept)) == kept


@given(st.text(CHARS, min_size=1, max_size=64), st.sampled_from([None, True, False]), USECS)
def test_consumer_comes_back_as_it_was(name: str, pinned: bool | None, last_used_usec: int) -> None:
    kept = KeptConsumer(name, pinned, last_used_usec)

    assert decode_consumer(consumer_stem(name), encode_consumer(kept)) == kept


@given(st.text(max_size=64), st.text(max_size=64))
def test_names_of_consumers_are_plain_file_names_and_never_the_same(one: str, other: str) -> None:
    assert set(consumer_stem(one)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-%")
    assert (consumer_stem(one) == consumer_stem(other)) == (one == other)


def decoded(content: bytes) -> KeptLease | None:
    """The lease, or None where it is refused; any other error is the test's failure."""
    try:
        return decode_lease("a1", content)
    except Unfit:
        return None


def flat(record: dict[str, Any], before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    here = [(*before, key) for key in record]
    return here + [path for key, value in record.items() if isinstance(value, dict) for path in flat(value, (key,))]


PATHS = flat(json.loads(encode_lease(KEPT)))


@given(st.sampled_from(PATHS), JUNK)
def test_lease_with_one_value_replaced_is_right_or_refused(path: tuple[str, ...], junk: Any) -> None:
    record = json.loads(encode_lease(KEPT))
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = junk

    kept = decoded(json.dumps(record).encode())

    assert kept is None or json.loads(encode_lease(kept)) == record


def test_lease_without_uuids_is_one_of_an_earlier_version() -> None:
    record = json.loads(encode_lease(KEPT))
    del record["uuids"]

    assert decode_lease("a1", json.dumps(record).encode()).lease == replace(KEPT.lease, uuids=())


@pytest.mark.parametrize("path", [path for path in PATHS if path != ("uuids",)], ids=".".join)
def test_lease_with_one_value_missing_is_refused(path: tuple[str, ...]) -> None:
    record = json.loads(encode_lease(KEPT))
    del (record if len(path) == 1 else record[path[0]])[path[-1]]

    with pytest.raises(Unfit, match=r"is missing|its format"):
        decode_lease("a1", json.dumps(record).encode())


@given(st.data())
def test_lease_cut_or_broken_anywhere_is_right_or_refused(data: st.DataObject) -> None:
    content = bytearray(encode_lease(KEPT))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]

    kept = decoded(bytes(content))

    assert kept is None or kept.lease.id == "a1"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "its format is not 1"),
        ({"format": None}, "its format is not 1"),
        ({"id": "a2"}, "its name is not that of the lease in it"),
        ({"lifetime": "forever"}, "its lifetime is not known"),
        ({"granted_usec": -1}, "its granted_usec cannot be true"),
        ({"granted_usec": True}, "its granted_usec cannot be true"),
        ({"granted_usec": 2**63}, "its granted_usec cannot be true"),
        ({"ttl_sec": float("nan")}, "its ttl_sec cannot be true"),
        ({"ttl_sec": float("inf")}, "its ttl_sec cannot be true"),
        ({"device": ""}, "its device cannot be true"),
        ({"device": "-1"}, "its device cannot be true"),
        ({"device": "\u00b2"}, "its device cannot be true"),
        ({"device": "9" * 40}, "its device cannot be true"),
        ({"device": "0,"}, "its device cannot be true"),
        ({"device": "0,,1"}, "its device cannot be true"),
        ({"device": ",".join(map(str, range(65)))}, "its device cannot be true"),
        ({"consumer": ""}, "its consumer cannot be true"),
        ({"reason": "x" * 1025}, "its reason cannot be true"),
        ({"reason": "\ud800"}, "its reason cannot be true"),
        ({"owner": {"bus_name": ":1.5\0"}}, "its bus_name cannot be true"),
        ({"owner": ["me"]}, "its owner cannot be true"),
        ({"owner": {"bus_name": ":1.1", "uid": -1}}, "its uid cannot be true"),
    ],
)
def test_lease_that_cannot_be_true_says_why(change: dict[str, Any], words: str) -> None:
    record = {**json.loads(encode_lease(KEPT)), **change}

    with pytest.raises(Unfit, match=words):
        decode_lease("a1", json.dumps(record).encode())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"\0" * 300, "it is no JSON"),
        (b"{", "it is no JSON"),
        (b"[" * 60_000, "it is no JSON"),
        (b"\xff\xfe", "it is no JSON"),
        (b"9" * 60_000, "it is no JSON"),
        (b"[]", "it is no record"),
        (b"{}", "its format is not 1"),
    ],
)
def test_content_that_is_no_record_says_why(content: bytes, words: str) -> None:
    with pytest.raises(Unfit, match=words):
        decode_lease("a1", content)
    with pytest.raises(Unfit, match=words):
        decode_consumer("a1", content)


@pytest.mark.parametrize("stem", ["../a", "a/b", "", "a" * 65, "ä"])
def test_file_whose_name_is_no_id_is_refused(stem: str) -> None:
    record = {**json.loads(encode_lease(KEPT)), "id": stem}

    with pytest.raises(Unfit, match="its name"):
        decode_lease(stem, json.dumps(record).encode())


def test_consumer_under_another_name_is_refused() -> None:
    with pytest.raises(Unfit, match="its name is not that of the consumer in it"):
        decode_consumer("llm", encode_consumer(KeptConsumer("tts", None, 0)))


@given(st.lists(st.integers(0, 9999), min_size=1, max_size=64, unique=True))
def test_a_load_reads_back(devices: list[int]) -> None:
    kept = KeptLoad("tts", tuple(sorted(devices)), 5, "boot")

    assert decode_load("tts", encode_load(kept)) == kept


def test_a_load_on_one_device_is_written_as_it_was_before_there_could_be_several() -> None:
    record = json.loads(encode_load(KeptLoad("tts", (3,), 5, "boot")))

    assert record["device"] == 3
    assert json.loads(encode_load(KeptLoad("tts", (0, 3), 5, "boot")))["device"] == [0, 3]


@pytest.mark.parametrize("device", [-1, 10000, True, "0", [], [0, -1], [0, True], [[0]], list(range(65)), None, 0.5])
def test_a_load_on_no_device_is_refused(device: object) -> None:
    record = json.loads(encode_load(KeptLoad("tts", (3,), 5, "boot"))) | {"device": device}

    with pytest.raises(Unfit, match="its device cannot be true"):
        decode_load("tts", json.dumps(record).encode())
