from __future__ import annotations

import random
from dataclasses import replace

import pytest

from gpumand.bus.body_templates import MARKS, MAX_TEMPLATES
from gpumand.bus.grant_encoder import GRANT_SIGNATURE, GrantEncoder
from gpumand.bus.marshalling import grant_entry
from gpumand.bus.signal_encoder import encode_body
from gpumand.domain.lease import Lease, LeaseLifetime, Owner
from gpumand.domain.request import Grant
from gpumand.domain.reservation import Holder, ProcessKey, Reservation


def random_grant(draw: random.Random) -> Grant:
    """A grant of one of a few consumers, so that many differ in id and times only."""
    lease_id = "".join(draw.choices("0123456789abcdef", k=draw.choice((20, 20, 20, 32))))
    lease = Lease(
        id=lease_id,
        consumer=draw.choice(("tts", "llm", lease_id)),
        device=draw.choice(("", "0", "0,1")),
        owner=Owner(":1.5", 1000),
        lifetime=LeaseLifetime.TTL,
        granted_usec=1,
        expires_usec=draw.choice((0, draw.randrange(2**64))),
        reservation=draw.choice((None, None, None, reservation(lease_id))),
    )
    evicted = draw.choice(((), ("a",), ("ö\u2026", "\xff" * 8)))
    endpoint = draw.choice(("", "http://127.0.0.1:8000"))
    return Grant(lease, draw.choice((0, draw.randrange(2**64))), evicted, draw.random() < 0.5, endpoint)


def reservation(lease_id: str) -> Reservation:
    return Reservation(lease_id, 2048, holder=Holder(ProcessKey(4711, 1), ProcessKey(1, 1), program="python3"))


def plain(grant: Grant) -> bytes:
    return encode_body(GRANT_SIGNATURE, [grant.lease.id, grant_entry(grant)])


@pytest.mark.parametrize("seed", range(5))
def test_replies_equal_the_encoding_of_dbus_fast(seed: int) -> None:
    draw, encoder = random.Random(seed), GrantEncoder()
    for _ in range(400):
        grant = random_grant(draw)
        assert encoder.encode(grant) == plain(grant)
    assert 0 < len(encoder._templates._templates) <= MAX_TEMPLATES


@pytest.mark.parametrize("usec", [0, 1, 2**63, *MARKS, 2**64 - 1, 2**64, -1])
def test_every_time_is_written_in_its_place(usec: int) -> None:
    encoder, grant = GrantEncoder(), random_grant(random.Random(1))
    for waited_usec, expires_usec in ((usec, 5), (5, usec), (usec, usec)):
        one = replace(grant, waited_usec=waited_usec, lease=replace(grant.lease, expires_usec=expires_usec))
        assert encoder.encode(one) == plain(one)


def test_grants_that_differ_in_id_and_times_share_a_template() -> None:
    encoder, grant = GrantEncoder(), random_grant(random.Random(3))
    grant = replace(grant, lease=replace(grant.lease, consumer="tts", reservation=None))
    for number in range(10):
        one = replace(grant, waited_usec=number, lease=replace(grant.lease, id=f"{number:020x}", expires_usec=number))
        assert encoder.encode(one) == plain(one)
    assert len(encoder._templates._templates) == 1


def test_number_of_templates_is_bounded() -> None:
    encoder, grant = GrantEncoder(), random_grant(random.Random(4))
    for number in range(3 * MAX_TEMPLATES):
        one = replace(grant, endpoint=f"http://127.0.0.1:{number}")
        assert encoder.encode(one) == plain(one)
        assert len(encoder._templates._templates) <= MAX_TEMPLATES
