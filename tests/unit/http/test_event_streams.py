"""The event stream: which events are sent, in which format, and when a reader is disconnected."""

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
    EvictionDeferred,
    EvictionFailed,
    EvictionOccurred,
    EvictionReport,
    LeaseDegraded,
    LeaseEnded,
    LeaseGranted,
    LeaseRenewed,
    LeaseRestored,
    LeaseReturned,
    LeaseWanted,
    LeaseYielded,
    LoadFinished,
    RequestGranted,
    SummaryChanged,
)
from gpumand.domain.lease import Lease, LeaseEnd, LeaseLifetime, Owner
from gpumand.http import event_streams
from gpumand.http.event_streams import KEEPALIVE, EventStreams, TooManyReaders, format_event, signal_of
from gpumand.http.limits import MAX_QUEUED_EVENTS, MAX_READERS, MAX_READERS_PER_PEER

LEASE = Lease("abc", "tts", "0", Owner(":1.1", 0), LeaseLifetime.TTL, 1, 2, 900.0, "", "")
REPORT = EvictionReport("tts", "0", 100, "http", "ollama", "idle\nfor long", None, True, 5, ("http",))
EVENTS_WITH_SIGNAL: list[Event] = [
    EvictionOccurred(REPORT),
    EvictionFailed(REPORT),
    LeaseGranted(LEASE),
    LeaseEnded(LEASE, LeaseEnd.EXPIRED),
    LeaseDegraded(LEASE),
    LeaseRestored(LEASE),
    LeaseWanted(LEASE, "ollama", 5),
    LeaseYielded(LEASE),
    LeaseReturned(LEASE),
    EvictionDeferred(REPORT),
]


def unexpected_disconnect() -> None:
    raise AssertionError("the reader was disconnected")


def test_events_have_the_names_and_fields_of_the_manager_signals() -> None:
    assert gpumand.bus.__file__ is not None
    root = ET.parse(Path(gpumand.bus.__file__).with_name("org.gpumand1.Manager.xml")).getroot()
    documented = {one.get("name"): [arg.get("name") for arg in one.iter("arg")] for one in root.iter("signal")}
    sent = dict(found for event in EVENTS_WITH_SIGNAL if (found := signal_of(event)))
    assert {name: list(fields) for name, fields in sent.items()} == documented


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
def test_event_without_a_bus_signal_is_not_sent(event: Event) -> None:
    assert signal_of(event) is None


def test_line_breaks_in_an_event_are_escaped() -> None:
    found = signal_of(EvictionOccurred(REPORT))
    assert found is not None
    lines = format_event(*found).decode("ascii").split("\n")
    assert lines[0] == "event: EvictionOccurred"
    assert lines[2:] == ["", ""]
    fields = json.loads(lines[1].removeprefix("data: "))
    assert fields["details"]["why"] == "idle\nfor long"
    assert "expected_mib" not in fields["details"]


async def test_all_readers_get_all_events_in_order() -> None:
    streams = EventStreams()
    readers = [streams.join(f"uid {number}", unexpected_disconnect) for number in range(3)]
    for event in EVENTS_WITH_SIGNAL:
        streams.publish(event)
    received = [await reader.next() for reader in readers]
    assert (
        received[0]
        == received[1]
        == received[2]
        == b"".join(format_event(*found) for event in EVENTS_WITH_SIGNAL if (found := signal_of(event)))
    )


async def test_slow_reader_is_disconnected_once_and_others_continue() -> None:
    disconnected: list[str] = []
    streams = EventStreams()
    streams.join("uid 1", lambda: disconnected.append("slow"))
    fast, received = streams.join("uid 2", unexpected_disconnect), 0
    for _ in range(MAX_QUEUED_EVENTS + 10):
        streams.publish(EVENTS_WITH_SIGNAL[2])
        received += (await fast.next()).count(b"event: ")
    assert disconnected == ["slow"]
    assert received == MAX_QUEUED_EVENTS + 10


async def test_keepalive_is_sent_while_there_are_no_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_streams, "KEEPALIVE_SEC", 0.01)
    reader = EventStreams().join("uid 1", unexpected_disconnect)
    assert await reader.next() == KEEPALIVE
    assert KEEPALIVE.startswith(b":")
    assert KEEPALIVE.endswith(b"\n\n")


async def test_closed_stream_ends_after_its_queued_events() -> None:
    streams = EventStreams()
    reader = streams.join("uid 1", unexpected_disconnect)
    streams.publish(EVENTS_WITH_SIGNAL[2])
    streams.close()
    assert b"LeaseGranted" in await reader.next()
    assert await reader.next() == b""


def test_one_user_cannot_use_all_streams() -> None:
    streams = EventStreams()
    mine = [streams.join("uid 1", unexpected_disconnect) for _ in range(MAX_READERS_PER_PEER)]
    with pytest.raises(TooManyReaders, match="uid 1"):
        streams.join("uid 1", unexpected_disconnect)
    streams.leave(mine[0])
    streams.join("uid 1", unexpected_disconnect)
    for number in range(MAX_READERS - MAX_READERS_PER_PEER):
        streams.join(f"uid {number + 2}", unexpected_disconnect)
    assert len(streams) == MAX_READERS
    with pytest.raises(TooManyReaders, match=str(MAX_READERS)):
        streams.join("uid 99", unexpected_disconnect)
