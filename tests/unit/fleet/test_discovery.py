"""Members of etcd from SRV records: their order, and records that are no members."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.config.problems import ConfigProblems
from gpumand.fleet.config import load
from gpumand.fleet.discovery import MAX_MEMBERS, members


def record(host: object, port: object = 2379, priority: object = 0, weight: object = 0) -> list[Any]:
    """As systemd-resolved answers it: addresses and a canonical name follow, which are not used."""
    return [priority, weight, port, host, [], host]


def test_members_are_ordered_by_priority_and_then_by_weight() -> None:
    records = [record("c.lan", priority=10), record("b.lan", weight=1), record("a.lan.", 12379, weight=5)]
    assert members(records) == ("https://a.lan:12379", "https://b.lan:2379", "https://c.lan:2379")


@pytest.mark.parametrize(
    "bad",
    [
        record("."),
        record(""),
        record("a lan"),
        record("a.lan/x"),
        record("a.lan", 0),
        record("a.lan", 70000),
        record("a.lan", "2379"),
        record(7),
        record("a.lan", priority=None),
        ["a.lan"],
        "a.lan",
        None,
    ],
)
def test_records_that_name_no_member_are_left_out(bad: Any) -> None:
    assert members([bad, record("b.lan")]) == ("https://b.lan:2379",)


def test_number_of_members_is_limited_and_each_is_used_once() -> None:
    assert members([record("a.lan"), record("A.lan.")]) == ("https://a.lan:2379",)
    assert len(members([record(f"m{number}.lan") for number in range(100)])) == MAX_MEMBERS


anything = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=20), st.lists, max_leaves=8)


@given(st.lists(anything | st.tuples(st.integers(), st.integers(), st.integers(), st.text(max_size=20)), max_size=5))
def test_any_answer_is_handled(records: list[Any]) -> None:
    assert all(one.startswith("https://") for one in members(records))


def read(folder: Path, etcd: str) -> Any:
    file = folder / "fleet.toml"
    tls = 'ca = "/c/ca.crt"\ncertificate = "/c/host.crt"\nkey = "/c/host.key"\n'
    file.write_text(f'[fleet]\nurl = "https://gpu1:8447"\n{tls}[fleet.etcd]\n{etcd}\n', encoding="utf-8")
    return load(file).etcd


def test_domain_takes_the_place_of_endpoints(tmp_path: Path) -> None:
    found = read(tmp_path, 'domain = "Lab.Example.org."')
    assert (found.domain, found.endpoints) == ("lab.example.org", ())


@pytest.mark.parametrize(
    ("etcd", "words"),
    [
        ("", "endpoints: is missing"),
        ('domain = "lan"\nendpoints = "https://a:2379"', "domain: is not used with endpoints"),
        ('domain = "a lan"', "is not the name of a DNS domain"),
        ('domain = "-a.lan"', "is not the name of a DNS domain"),
        ('domain = "a..lan"', "is not the name of a DNS domain"),
        ('domain = ""', "domain: must not be empty"),
        (f'domain = "{"a." * 120}lan"', "is not the name of a DNS domain"),
    ],
)
def test_errors_name_the_key(tmp_path: Path, etcd: str, words: str) -> None:
    with pytest.raises(ConfigProblems) as caught:
        read(tmp_path, etcd)
    assert any(words in str(one) for one in caught.value.problems), caught.value.problems
