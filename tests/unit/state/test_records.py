"""State records: encoding and decoding round-trip, and invalid content is rejected."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.domain.device import format_devices
from gpumand.domain.lease import Lease, LeaseLifetime, Owner
from gpumand.domain.reservation import Holder, ProcessKey, Reservation
from gpumand.state.folder import UnusableFile
from gpumand.state.records import (
    LEASE_ID,
    MAX_USEC,
    StoredConsumer,
    StoredLease,
    StoredLoad,
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
        lambda one: format_devices(tuple(one))
    ),
    owner=OWNERS,
    lifetime=st.sampled_from(LeaseLifetime),
    granted_usec=USECS,
    expires_usec=USECS,
    ttl_sec=st.floats(0, 1e9),
    reason=TEXTS,
    token=TEXTS,
    uuids=st.lists(st.text(CHARS, min_size=1, max_size=20), max_size=64).map(tuple),
    restore=st.booleans(),
)
LEASE = Lease("a1", "tts", "0", Owner(":1.5", 1000), LeaseLifetime.TTL, 5, 9, 4.0, "why", "t", ("GPU-1",))
STORED = StoredLease(LEASE, "bus", "boot")
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.just("x" * 1025), st.lists(TEXTS), st.just({"a": 1})
)


@given(LEASES, TEXTS, TEXTS)
def test_lease_round_trips(lease: Lease, bus_id: str, boot_id: str) -> None:
    stored = StoredLease(lease, bus_id, boot_id)

    assert decode_lease(lease.id, encode_lease(stored)) == stored


@given(st.text(CHARS, min_size=1, max_size=64), st.sampled_from([None, True, False]), USECS)
def test_consumer_round_trips(name: str, pinned: bool | None, last_used_usec: int) -> None:
    stored = StoredConsumer(name, pinned, last_used_usec)

    assert decode_consumer(consumer_stem(name), encode_consumer(stored)) == stored


@given(st.text(max_size=64), st.text(max_size=64))
def test_consumer_file_names_are_plain_and_unique(one: str, other: str) -> None:
    assert set(consumer_stem(one)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-%")
    assert (consumer_stem(one) == consumer_stem(other)) == (one == other)


def decoded(content: bytes) -> StoredLease | None:
    """The decoded lease, or None where it is rejected; any other error fails the test."""
    try:
        return decode_lease("a1", content)
    except UnusableFile:
        return None


def key_paths(record: dict[str, Any], before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    here = [(*before, key) for key in record]
    return here + [
        path for key, value in record.items() if isinstance(value, dict) for path in key_paths(value, (key,))
    ]


PATHS = key_paths(json.loads(encode_lease(STORED)))


@given(st.sampled_from(PATHS), JUNK)
def test_lease_with_one_replaced_value_is_valid_or_rejected(path: tuple[str, ...], junk: Any) -> None:
    record = json.loads(encode_lease(STORED))
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = junk

    stored = decoded(json.dumps(record).encode())

    assert stored is None or json.loads(encode_lease(stored)) == record


def test_lease_without_uuids_from_an_earlier_version_is_accepted() -> None:
    record = json.loads(encode_lease(STORED))
    del record["uuids"]

    assert decode_lease("a1", json.dumps(record).encode()).lease == replace(STORED.lease, uuids=())


@pytest.mark.parametrize("path", [path for path in PATHS if path != ("uuids",)], ids=".".join)
def test_lease_with_a_missing_value_is_rejected(path: tuple[str, ...]) -> None:
    record = json.loads(encode_lease(STORED))
    del (record if len(path) == 1 else record[path[0]])[path[-1]]

    with pytest.raises(UnusableFile, match=r"is missing|its format"):
        decode_lease("a1", json.dumps(record).encode())


@given(st.data())
def test_truncated_or_corrupted_lease_is_valid_or_rejected(data: st.DataObject) -> None:
    content = bytearray(encode_lease(STORED))
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]

    stored = decoded(bytes(content))

    assert stored is None or stored.lease.id == "a1"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "its format is not 1"),
        ({"format": None}, "its format is not 1"),
        ({"id": "a2"}, "its name does not match the lease in it"),
        ({"lifetime": "forever"}, "its lifetime is unknown"),
        ({"granted_usec": -1}, "its granted_usec is invalid"),
        ({"granted_usec": True}, "its granted_usec is invalid"),
        ({"granted_usec": 2**63}, "its granted_usec is invalid"),
        ({"ttl_sec": float("nan")}, "its ttl_sec is invalid"),
        ({"ttl_sec": float("inf")}, "its ttl_sec is invalid"),
        ({"device": ""}, "its device is invalid"),
        ({"device": "-1"}, "its device is invalid"),
        ({"device": "\u00b2"}, "its device is invalid"),
        ({"device": "9" * 40}, "its device is invalid"),
        ({"device": "0,"}, "its device is invalid"),
        ({"device": "0,,1"}, "its device is invalid"),
        ({"device": ",".join(map(str, range(65)))}, "its device is invalid"),
        ({"consumer": ""}, "its consumer is invalid"),
        ({"reason": "x" * 1025}, "its reason is invalid"),
        ({"reason": "\ud800"}, "its reason is invalid"),
        ({"owner": {"bus_name": ":1.5\0"}}, "its bus_name is invalid"),
        ({"owner": ["me"]}, "its owner is invalid"),
        ({"owner": {"bus_name": ":1.1", "uid": -1}}, "its uid is invalid"),
    ],
)
def test_invalid_lease_is_rejected_with_the_reason(change: dict[str, Any], words: str) -> None:
    record = {**json.loads(encode_lease(STORED)), **change}

    with pytest.raises(UnusableFile, match=words):
        decode_lease("a1", json.dumps(record).encode())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"\0" * 300, "it is not valid JSON"),
        (b"{", "it is not valid JSON"),
        (b"[" * 60_000, "it is not valid JSON"),
        (b"\xff\xfe", "it is not valid JSON"),
        (b"9" * 60_000, "it is not valid JSON"),
        (b"[]", "it is not a JSON object"),
        (b"{}", "its format is not 1"),
    ],
)
def test_malformed_content_is_rejected_with_the_reason(content: bytes, words: str) -> None:
    with pytest.raises(UnusableFile, match=words):
        decode_lease("a1", content)
    with pytest.raises(UnusableFile, match=words):
        decode_consumer("a1", content)


@pytest.mark.parametrize("stem", ["../a", "a/b", "", "a" * 65, "ä"])
def test_lease_file_with_invalid_name_is_rejected(stem: str) -> None:
    record = {**json.loads(encode_lease(STORED)), "id": stem}

    with pytest.raises(UnusableFile, match="its name"):
        decode_lease(stem, json.dumps(record).encode())


def test_consumer_in_a_file_of_another_name_is_rejected() -> None:
    with pytest.raises(UnusableFile, match="its name does not match the consumer in it"):
        decode_consumer("llm", encode_consumer(StoredConsumer("tts", None, 0)))


@given(st.lists(st.integers(0, 9999), min_size=1, max_size=64, unique=True))
def test_load_round_trips(devices: list[int]) -> None:
    stored = StoredLoad("tts", tuple(sorted(devices)), 5, "boot")

    assert decode_load("tts", encode_load(stored)) == stored


def test_load_on_one_device_is_stored_in_the_original_format() -> None:
    record = json.loads(encode_load(StoredLoad("tts", (3,), 5, "boot")))

    assert record["device"] == 3
    assert json.loads(encode_load(StoredLoad("tts", (0, 3), 5, "boot")))["device"] == [0, 3]


@pytest.mark.parametrize("device", [-1, 10000, True, "0", [], [0, -1], [0, True], [[0]], list(range(65)), None, 0.5])
def test_load_with_invalid_devices_is_rejected(device: object) -> None:
    record = json.loads(encode_load(StoredLoad("tts", (3,), 5, "boot"))) | {"device": device}

    with pytest.raises(UnusableFile, match="its device is invalid"):
        decode_load("tts", json.dumps(record).encode())


RESERVATION = Reservation(
    "38a640c1f0", 12288, False, Holder(ProcessKey(7, 99), ProcessKey(6, 90), "job.service", "last.service", "python")
)
RESERVED = Lease(
    "38a640c1f0", RESERVATION.name, "0", Owner(":1.7", 1000, 7), LeaseLifetime.TTL, 1, reservation=RESERVATION
)


@pytest.mark.parametrize("reservation", [RESERVATION, replace(RESERVATION, vram_mib=0, whole_device=True)])
def test_reservation_round_trips(reservation: Reservation) -> None:
    stored = StoredLease(replace(RESERVED, reservation=reservation), "bus", "boot")
    assert decode_lease(RESERVED.id, encode_lease(stored)) == stored


def test_lease_without_a_reservation_has_the_format_of_earlier_versions() -> None:
    lease = Lease("1", "comfyui", "0", Owner(":1.7", 1000), LeaseLifetime.TTL, 1)
    assert "reservation" not in json.loads(encode_lease(StoredLease(lease, "bus", "boot")))


@pytest.mark.parametrize(
    "change",
    [
        {"vram_mib": -1},
        {"vram_mib": 2**40},
        {"whole_device": 1},
        {"pid": "7"},
        {"parent_started": None},
        {"unit": 5},
        {"program": "\0"},
    ],
)
def test_invalid_reservation_is_rejected(change: dict[str, Any]) -> None:
    record = json.loads(encode_lease(StoredLease(RESERVED, "bus", "boot")))
    record["reservation"] |= change
    with pytest.raises(UnusableFile):
        decode_lease(RESERVED.id, json.dumps(record).encode())


@pytest.mark.parametrize("change", [{"consumer": "comfyui"}, {"reservation": []}, {"reservation": None}])
def test_reservation_that_contradicts_its_lease_is_rejected(change: dict[str, Any]) -> None:
    record = json.loads(encode_lease(StoredLease(RESERVED, "bus", "boot"))) | change
    with pytest.raises(UnusableFile):
        decode_lease(RESERVED.id, json.dumps(record).encode())
