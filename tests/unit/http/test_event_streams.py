"""Events as a stream: what is told, in which words, and who is cut off."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import gpumand.bus
from gpumand.domain.events import (
    ConsumersChanged,
    DevicesChanged,
    Event,
    EvictionFailed,
    EvictionOccurred,
    EvictionReport,
    LeaseEnded,
    LeaseGranted,
    LeaseRenewed,
    LoadFinished,
    RequestGranted,
    SummaryChanged,
)
from gpumand.domain.lease import Lease, LeaseEnd, LeaseLifetime, Owner
from gpumand.http import event_streams
from gpumand.http.event_streams import KEEPALIVE, Streams, TooManyReaders, block, signal_of
from gpumand.http.limits import MAX_QUEUED_EVENTS, MAX_READERS, MAX_READERS_PER_PEER

LEASE = Lease("abc", "tts", "0", Owner(":1.1", 0), LeaseLifetime.TTL, 1, 2, 900.0, "", "")
REPORT = EvictionReport("tts", "0", 100, "http", "ollama", "idle\nfor long", None, True, 5, ("http",))
DEEDS: list[Event] = [
    EvictionOccurred(REPORT),
    EvictionFailed(REPORT),
    LeaseGranted(LEASE),
    LeaseEnded(LEASE, LeaseEnd.EXPIRED),
]


def nobody() -> None:
    raise AssertionError("it was cut off")


def test_signals_and_their_fields_are_those_of_the_manager() -> None:
    assert gpumand.bus.__file__ is not None
    root = ET.parse(Path(gpumand.bus.__file__).with_name("org.gpumand1.Manager.xml")).getroot()
    documented = {one.get("name"): [arg.get("name") for arg in one.iter("arg")] for one in root.iter("signal")}
    told = dict(found for deed in DEEDS if (found := signal_of(deed)))
    assert {name: list(fields) for name, fields in told.items()} == documented


@pytest.mark.parametrize(
    "event",
    [
        ConsumersChanged(frozenset({"tts"})),
        DevicesChanged(),
        SummaryChanged(),
        LeaseRenewed(LEASE),
        LoadFinished("tts", "0", 1),
        RequestGranted("tts", 1, LEASE),
    ],
)
def test_what_the_bus_tells_by_no_signal_is_not_told(event: Event) -> None:
    assert signal_of(event) is None


def test_block_is_one_event_whatever_it_says() -> None:
    found = signal_of(EvictionOccurred(REPORT))
    assert found is not None
    lines = block(*found).decode("ascii").split("\n")
    assert lines[0] == "event: EvictionOccurred"
    assert lines[2:] == ["", ""]
    fields = json.loads(lines[1].removeprefix("data: "))
    assert fields["details"]["why"] == "idle\nfor long"
    assert "expected_mib" not in fields["details"]


async def test_readers_hear_everything_in_order() -> None:
    hub = Streams()
    readers = [hub.join(f"uid {number}", nobody) for number in range(3)]
    for deed in DEEDS:
        hub.publish(deed)
    told = [await reader.next() for reader in readers]
    assert told[0] == told[1] == told[2] == b"".join(block(*found) for deed in DEEDS if (found := signal_of(deed)))


async def test_reader_that_does_not_keep_up_is_cut_off_once_and_others_go_on() -> None:
    cut: list[str] = []
    hub = Streams()
    hub.join("uid 1", lambda: cut.append("slow"))
    fast, heard = hub.join("uid 2", nobody), 0
    for _ in range(MAX_QUEUED_EVENTS + 10):
        hub.publish(DEEDS[2])
        heard += (await fast.next()).count(b"event: ")
    assert cut == ["slow"]
    assert heard == MAX_QUEUED_EVENTS + 10


async def test_quiet_stream_gives_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_streams, "KEEPALIVE_SEC", 0.01)
    reader = Streams().join("uid 1", nobody)
    assert await reader.next() == KEEPALIVE
    assert KEEPALIVE.startswith(b":")
    assert KEEPALIVE.endswith(b"\n\n")


async def test_closed_stream_ends_after_what_was_still_to_be_told() -> None:
    hub = Streams()
    reader = hub.join("uid 1", nobody)
    hub.publish(DEEDS[2])
    hub.close()
    assert b"LeaseGranted" in await reader.next()
    assert await reader.next() == b""


def test_one_user_cannot_keep_the_others_out() -> None:
    hub = Streams()
    mine = [hub.join("uid 1", nobody) for _ in range(MAX_READERS_PER_PEER)]
    with pytest.raises(TooManyReaders, match="uid 1"):
        hub.join("uid 1", nobody)
    hub.leave(mine[0])
    hub.join("uid 1", nobody)
    for number in range(MAX_READERS - MAX_READERS_PER_PEER):
        hub.join(f"uid {number + 2}", nobody)
    assert len(hub) == MAX_READERS
    with pytest.raises(TooManyReaders, match=str(MAX_READERS)):
        hub.join("uid 99", nobody)
