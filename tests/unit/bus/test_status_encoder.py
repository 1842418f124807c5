from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from dbus_fast import Message
from jeepney.low_level import Parser

from gpumand.bus import status_encoder
from gpumand.bus.marshalling import consumer_entry, status_entry
from gpumand.bus.reply_encoder import ReplyEncoder
from gpumand.bus.signal_encoder import encode_body
from gpumand.bus.status_encoder import StatusEncoder
from gpumand.domain.lease import Lease, LeaseLifetime, Owner
from gpumand.domain.status import ConsumerStatus, Status


def consumer(number: int, draw: random.Random) -> ConsumerStatus:
    """A consumer whose encoding has any length, so that the next one begins at any alignment."""
    text = "ö" * draw.randrange(9) + "x" * draw.randrange(9)
    return ConsumerStatus(
        name=f"c{number}",
        residency="resident",
        device="0",
        vram_resident_mib=draw.choice((None, 2**40)),
        used_mib=draw.choice((None, 7)),
        leases=draw.randrange(3),
        last_used_usec=draw.randrange(2**50),
        pinned=draw.random() < 0.5,
        vram_managed=True,
        unit=text,
        error=text[::2],
        evict=tuple("x" * draw.randrange(5) for _ in range(draw.randrange(3))),
        used_by_device=draw.choice(({}, {0: 5, 1: 2**33})),
        used_mib_history=tuple(range(draw.randrange(6))),
        busy=draw.choice((None, True)),
    )


def status(consumers: tuple[ConsumerStatus, ...]) -> Status:
    owner = Owner(":1.5", 1000, 77, "some.service")
    leases = (Lease("9f3a", "c1", "0", owner, LeaseLifetime.TTL, 5, 6, 1.0, "night run"),)
    return Status("1.0", "", (), consumers, leases, ())


CALL = Message("org.gpumand1", "/org/gpumand1", "org.gpumand1.Manager", "GetStatus", sender=":1.3", serial=9)


def decoded(content: bytes) -> dict[str, Any]:
    """The body as another D-Bus library reads it: values with their signatures."""
    parser = Parser()
    parser.add_data(ReplyEncoder().encode(CALL, "a{sv}", [{}], 5, content))
    (entry,) = parser.get_next_message().body
    return dict(entry)


@pytest.mark.parametrize("seed", range(20))
def test_status_equals_the_one_that_dbus_fast_encodes(seed: int) -> None:
    draw, encoder = random.Random(seed), StatusEncoder()
    consumers = tuple(consumer(number, draw) for number in range(draw.randrange(12)))
    for _ in range(3):
        given = status(consumers)
        assert decoded(encoder.encode(given)) == decoded(encode_body("a{sv}", [status_entry(given)]))
        consumers = tuple(replace(one, leases=9) if draw.random() < 0.3 else one for one in consumers[1:])


def test_order_of_consumers_is_kept() -> None:
    draw = random.Random(1)
    consumers = tuple(consumer(number, draw) for number in (3, 1, 2))
    encoder = StatusEncoder()
    encoder.encode(status(consumers[::-1]))
    (_, listed) = decoded(encoder.encode(status(consumers)))["consumers"]
    assert [one["name"][1] for one in listed] == ["c3", "c1", "c2"]


def test_only_changed_consumers_are_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []

    def counted(one: ConsumerStatus) -> Any:
        encoded.append(one.name)
        return consumer_entry(one)

    monkeypatch.setattr(status_encoder, "consumer_entry", counted)
    draw, encoder = random.Random(2), StatusEncoder()
    consumers = tuple(consumer(number, draw) for number in range(5))
    encoder.encode(status(consumers))
    encoded.clear()
    encoder.encode(status((*consumers[:2], replace(consumers[2], leases=7), *consumers[3:])))
    assert encoded == ["c2"]
    assert len(encoder._known) == 5
    encoder.encode(status(consumers[:1]))
    assert len(encoder._known) == 1, "those that are gone are forgotten"


def test_reply_with_an_encoded_body_equals_one_with_values() -> None:
    entry = status_entry(status(()))
    content = encode_body("a{sv}", [entry])
    assert ReplyEncoder().encode(CALL, "a{sv}", [{}], 5, content) == ReplyEncoder().encode(CALL, "a{sv}", [entry], 5)


def test_consumers_that_were_encoded_at_the_start_are_not_encoded_for_the_first_status(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    consumers = tuple(consumer(number, random.Random(number)) for number in range(20))
    expected = StatusEncoder().encode(status(consumers))
    encoder, encoded = StatusEncoder(), list[str]()
    encoder.remember(consumers[:15])
    encoder.remember(consumers[15:])
    changed = replace(consumers[3], error="changed")

    def consumer_entry_counted(one: ConsumerStatus) -> Any:
        encoded.append(one.name)
        return consumer_entry(one)

    monkeypatch.setattr(status_encoder, "consumer_entry", consumer_entry_counted)
    assert encoder.encode(status(consumers)) == expected
    assert encoded == []
    encoder.encode(status((*consumers[:3], changed, *consumers[4:])))
    assert encoded == ["c3"]
