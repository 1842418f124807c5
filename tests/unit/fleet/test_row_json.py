"""Rows survive the way through the store, and hostile rows are refused with words."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from gpumand.domain.residency_states import Residency
from gpumand.fleet.json_fields import InvalidJson
from gpumand.fleet.row_json import MAX_ROW_BYTES, encode_host, encode_intent, parse_host, parse_intent
from gpumand.fleet.rows import ConsumerRow, DeviceRow, HostRow, Intent
from tests.unit.fleet.rows import H1, RESIDENT, row


def text(**changes: Any) -> str:
    return json.dumps({"id": H1, "epoch": 1, "seq": 1, "api": 1, **changes})


def test_row_is_the_same_after_encoding_and_parsing() -> None:
    full = replace(
        row(llm=RESIDENT, cold=ConsumerRow(Residency.UNLOADED, unique=True, queue=3)),
        gateway="http://h:8450",
        version="1.0",
        ram_mib=0,
        queue=3,
        draining=True,
        extra={"future": {"a": [1]}},
    )
    assert parse_host(encode_host(full)) == full


def test_unknown_memory_is_not_zero() -> None:
    unknown = replace(row(), devices=(DeviceRow("GPU-0", total_mib=24576, free_mib=None),))
    assert parse_host(encode_host(unknown)).devices[0].free_mib is None
    assert parse_host(encode_host(row())).devices[0].free_mib == 0


def test_unknown_keys_are_kept_at_every_level() -> None:
    written = text(new=1, gpus=[{"uuid": "GPU-0", "watts": 300}], consumers={"llm": {"r": "resident", "mood": "good"}})
    again = json.loads(encode_host(parse_host(written)))
    assert again["new"] == 1
    assert again["gpus"][0]["watts"] == 300
    assert again["consumers"]["llm"]["mood"] == "good"


def test_unknown_residency_of_a_newer_version_is_unknown() -> None:
    assert parse_host(text(consumers={"llm": {"r": "hibernating"}})).consumers["llm"].residency is Residency.UNKNOWN


def test_row_with_24_consumers_is_smaller_than_4_kb() -> None:
    many = {f"consumer-name-{index}": RESIDENT for index in range(24)}
    assert len(encode_host(replace(row(), consumers=many))) < 4096


def test_row_that_is_too_large_omits_unused_consumers_and_says_how_many() -> None:
    cold = replace(RESIDENT, residency=Residency.UNLOADED, leases=0)
    many = {f"c{index}-{'x' * 50}": cold for index in range(900)} | {"used": RESIDENT}
    encoded = encode_host(replace(row(), consumers=many))
    found = parse_host(encoded)
    assert len(encoded) <= MAX_ROW_BYTES
    assert "used" in found.consumers
    assert found.omitted == 901 - len(found.consumers) > 0


def test_row_with_a_large_unknown_key_still_fits() -> None:
    encoded = encode_host(replace(row(llm=RESIDENT), extra={"future": "x" * MAX_ROW_BYTES}))
    assert len(encoded) <= MAX_ROW_BYTES
    assert parse_host(encoded).machine_id == H1


HOSTILE = {
    "not JSON": "{",
    "empty": "",
    "no object": "[]",
    "deep nesting": "[" * 60_000,
    "deep nesting of an unknown key": text(new=0).replace('"new": 0', '"new": ' + "[" * 40 + "]" * 40),
    "not a number": text(seq=float("nan")),
    "huge number": text(seq=0).replace('"seq": 0', '"seq": ' + "9" * 5000),
    "too large": text(name="x") + " " * MAX_ROW_BYTES,
    "no machine id": json.dumps({"api": 1}),
    "machine id with a slash": text(id="1" * 30 + "/x"),
    "api missing": json.dumps({"id": H1}),
    "epoch negative": text(epoch=-1),
    "epoch as a truth value": text(epoch=True),
    "epoch fractional": text(epoch=1.5),
    "seq beyond 2^53": text(seq=2**53 + 1),
    "name with escape sequences": text(name="\x1b[2J"),
    "name with half a character": text(name="\ud800"),
    "name too long": text(name="x" * 256),
    "url as a list": text(url=["http://h"]),
    "gpus as an object": text(gpus={}),
    "gpu as a text": text(gpus=["GPU-0"]),
    "too many gpus": text(gpus=[{}] * 65),
    "free memory as a text": text(gpus=[{"uuid": "GPU-0", "free": "24576"}]),
    "consumers as a list": text(consumers=[]),
    "too many consumers": text(consumers={f"c{index}": {} for index in range(1025)}),
    "name of a consumer with a slash": text(consumers={"../llm": {}}),
    "consumer as null": text(consumers={"llm": None}),
    "leases negative": text(consumers={"llm": {"leases": -1}}),
    "times as a number": text(consumers={"llm": {"ms": 5}}),
    "drain as a number": text(drain=1),
}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
def test_hostile_row_is_refused_with_one_line(hostile: str) -> None:
    with pytest.raises(InvalidJson) as refused:
        parse_host(hostile)
    assert str(refused.value)
    assert "\n" not in str(refused.value)


def test_intent_is_the_same_after_encoding_and_parsing() -> None:
    intent = Intent(H1, "router-7", "abc", 17)
    assert parse_intent(encode_intent(intent)) == intent


@pytest.mark.parametrize("hostile", ["", "{}", '{"host": "x"}', json.dumps({"host": H1, "until": "soon"}), "x" * 2000])
def test_hostile_intent_is_refused(hostile: str) -> None:
    with pytest.raises(InvalidJson):
        parse_intent(hostile)


def test_newer_row_has_the_higher_order() -> None:
    assert HostRow(H1, epoch=2, seq=1).order > HostRow(H1, epoch=1, seq=9).order
    assert HostRow(H1, epoch=2, seq=2).order > HostRow(H1, epoch=2, seq=1).order
