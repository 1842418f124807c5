"""The leases that hosts publish, as other hosts read them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.fleet.json_fields import InvalidJson
from gpumand.fleet.keys import Keys
from gpumand.fleet.lease_rows import MAX_KNOWN, MAX_LEASE_BYTES, LeaseRow, PublishedLeases, encode_lease, parse_lease
from gpumand.fleet.store import Entry, Listing, Removed, Written
from gpumand.fleet.table import HostTable
from tests.unit.fleet.fleet_rows import machine_id

KEYS = Keys("lab")
LEASE = LeaseRow("chat", "gpumand-fleet.service", 17, "poster (for alice@gpu1)", "gpu1")
texts = st.text(max_size=400)


def entry(number: int, lease: LeaseRow, host: int = 1, revision: int = 5) -> Entry:
    return Entry(KEYS.lease(machine_id(host), f"l{number}"), encode_lease(lease), revision)


@given(texts, st.integers(0, 2**53), texts, texts)
def test_any_lease_is_read_as_it_was_published(owner: str, since: int, reason: str, via: str) -> None:
    found = parse_lease(encode_lease(LeaseRow("chat", owner, since, reason, via)))
    assert found == LeaseRow("chat", line(owner), since, line(reason), line(via))


def line(text: str) -> str:
    return "".join(one if one.isprintable() else " " for one in text[:200])


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"consumer": 1}', '{"consumer": "a/../b"}', '{"since": "x"}', "x" * (MAX_LEASE_BYTES + 1)],
)
def test_values_that_are_no_leases_are_refused(text: str) -> None:
    with pytest.raises(InvalidJson):
        parse_lease(text)


async def test_table_has_the_leases_of_each_host_the_oldest_first() -> None:
    table = HostTable(KEYS, lambda: 0.0)
    old = LeaseRow("image", "job.service", 3)
    table.apply(Listing((entry(1, LEASE), entry(2, old), entry(1, old, host=2)), 5))
    assert table.leases.of(machine_id(1)) == [
        {"id": "l2", "consumer": "image", "owner": "job.service", "since": 3, "reason": ""},
        {"id": "l1"} | LEASE.document(),
    ]
    table.apply(Removed(KEYS.lease(machine_id(1), "l1"), 6))
    table.apply(Written(entry(3, LEASE, revision=7)))
    assert [one["id"] for one in table.leases.of(machine_id(1))] == ["l2", "l3"]
    table.apply(Listing((entry(1, old, host=2),), 8))
    assert table.leases.of(machine_id(1)) == [], "a listing is complete"
    assert len(table.leases.of(machine_id(2))) == 1


async def test_lease_that_cannot_be_read_is_logged_and_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    table = HostTable(KEYS, lambda: 0.0)
    table.apply(Written(Entry(KEYS.lease(machine_id(1), "l1"), "{", 5)))
    table.apply(Written(entry(2, LEASE, revision=6)))
    assert [one["id"] for one in table.leases.of(machine_id(1))] == ["l2"]
    assert "is ignored" in caplog.text


def test_number_of_leases_that_are_kept_is_limited() -> None:
    known = PublishedLeases(KEYS)
    for number in range(MAX_KNOWN + 10):
        known.write(entry(number, LEASE))
    assert len(known.keys) == MAX_KNOWN
    known.write(entry(0, LeaseRow("other")))
    assert json.loads(json.dumps(known.of(machine_id(1))))[0]["consumer"] == "other", "a known one is replaced"


def test_only_keys_below_a_host_are_those_of_leases() -> None:
    known = PublishedLeases(KEYS)
    assert known.holds(KEYS.lease(machine_id(1), "l1"))
    forged = KEYS.leases_of(machine_id(1)) + "1\nroot logged in"
    for key in (
        forged,
        KEYS.leases,
        KEYS.leases_of(machine_id(1)),
        KEYS.leases + "x/l1",
        KEYS.host(machine_id(1)),
        "/x",
    ):
        assert not known.holds(key)
