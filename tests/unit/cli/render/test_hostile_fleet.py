"""``gpumanctl --fleet`` with answers that are not what they should be: no traceback, no control character, no flood."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumand.cli.errors import Failure
from gpumand.cli.fleet.api import _document, refusal
from gpumand.cli.output import paint
from gpumand.cli.render.fleet import fleet_lines, grant_line, load_line, plan_lines
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import Theme

PLAIN = Theme(width=100)
NOW = 1_700_000_000_000_000

HOSTILE: list[Any] = [
    None,
    True,
    1,
    -1,
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "\x1b[2J\n\x00",
    "x" * 10_000,
    [],
    {},
    [1],
]
KEYS = [
    "hosts",
    "row",
    "leases",
    "gpus",
    "consumers",
    "free",
    "total",
    "state",
    "why",
    "local",
    "degraded",
    "name",
    "r",
]
KEYS += ["since", "owner", "via", "reason", "consumer", "queue", "version", "id", "host", "plan", "expected_sec"]
KEYS += ["verdict", "message", "residency", "endpoint", "load_usec", "took_usec"]

leaves = st.sampled_from(HOSTILE) | st.text(max_size=8) | st.integers() | st.floats()
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6)
)
documents = st.dictionaries(st.sampled_from(KEYS), values, max_size=8)


def printed(lines: list[Text]) -> str:
    text = paint(lines, PLAIN)
    assert all(one.isprintable() or one == "\n" for one in text), repr(text)
    return text


@settings(max_examples=300, deadline=None)
@given(documents)
def test_any_answer_is_printed_without_control_characters(document: dict[str, Any]) -> None:
    printed(fleet_lines(document, PLAIN, NOW))
    printed(plan_lines(document, PLAIN))
    for line in (load_line("llm", document), grant_line("llm", document)):
        assert line.isprintable()


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize(
    "key", ["hosts", "row", "leases", "gpus", "consumers", "why", "state", "since", "free", "r", "llm"]
)
def test_each_value_of_a_host_may_be_anything(key: str, value: Any) -> None:
    consumers = {"llm": {"r": "resident", "leases": 1}}
    row: dict[str, Any] = {"name": "gpu1", "gpus": [{"total": 1, "free": 1}], "consumers": consumers}
    host: dict[str, Any] = {"state": "up", "local": True, "row": row, "leases": [{"consumer": "llm", "since": NOW}]}
    document: dict[str, Any] = {"hosts": [host]}
    places = (document, host, row, row["gpus"][0], consumers["llm"], consumers, host["leases"][0])
    for place in [one for one in places if key in one]:
        place[key] = value
    printed(fleet_lines(document, PLAIN, NOW))


def test_unknown_memory_is_not_shown_as_none_left() -> None:
    row = {"name": "gpu1", "gpus": [{"total": 24000, "free": 12000}, {"total": "24000", "free": -1}]}
    text = printed(fleet_lines({"hosts": [{"state": "up", "row": row}]}, PLAIN, NOW))
    assert "12" not in text
    assert "24" not in text


def test_flood_of_hosts_leases_and_texts_is_limited() -> None:
    lease = {"consumer": "c" * 100_000, "owner": "o" * 100_000}
    host = {"state": "s" * 100_000, "why": "w" * 100_000, "row": {"name": "n" * 100_000}, "leases": [lease] * 3}
    assert len(paint(fleet_lines({"hosts": [host] * 3}, PLAIN, NOW), PLAIN)) < 30_000
    assert len(fleet_lines({"hosts": [{"state": "up"}] * 100_000}, PLAIN, NOW)) < 2000


def test_answers_that_are_not_json_are_refused_in_one_line() -> None:
    for data in (b"", b"[]", b'{"a": NaN}', b"[" * 100_000, b"\xff", b"9" * 5000):
        with pytest.raises(Failure, match="gpumand-fleet answered with status 200"):
            _document(200, data)
    assert len(refusal({"error": "e" * 10_000, "message": ["m"] * 10_000}).message) < 3000
