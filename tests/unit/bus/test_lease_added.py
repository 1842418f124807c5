from __future__ import annotations

import random
from dataclasses import replace

import pytest

from gpumand.bus.body_templates import MAX_TEMPLATES
from gpumand.bus.interfaces import own_interfaces
from gpumand.bus.lease_added import LeaseAddedEncoder
from gpumand.bus.names import LEASE
from gpumand.bus.object_tree import ADDED_SIGNATURE, PublishedObject
from gpumand.bus.properties import lease_state
from gpumand.bus.published_objects import lease_path
from gpumand.bus.signal_encoder import encode_body
from gpumand.domain.lease import Lease, LeaseLifetime, Owner

INTERFACE = own_interfaces()[LEASE]


def random_lease(draw: random.Random) -> Lease:
    """A lease of one of a few clients, so that many leases differ in id and times only."""
    lease_id = "".join(draw.choices("0123456789abcdef", k=20))
    owner = Owner(f":1.{draw.randrange(2)}", 1000, draw.choice((0, 4711)), draw.choice(("", "job.service")))
    lifetime = draw.choice(tuple(LeaseLifetime))
    # A reason may contain anything of the lease itself, and text that is longer in UTF-8.
    reason = draw.choice(("", "night run", "ö\u2026", lease_id, "\xff" * 8))
    return Lease(
        id=lease_id,
        consumer=draw.choice(("tts", "llm")),
        device=draw.choice(("", "0", "0,1")),
        owner=owner,
        lifetime=lifetime,
        granted_usec=draw.randrange(2**55),
        expires_usec=draw.choice((0, draw.randrange(2**55))),
        ttl_sec=5.0,
        reason=reason,
        exclusive=draw.random() < 0.3,
    )


def plain(lease: Lease) -> bytes:
    path = lease_path(lease.id)
    item = PublishedObject(path, INTERFACE, lease_state(lease))
    return encode_body(ADDED_SIGNATURE, [path, {INTERFACE.name: item.properties()}])


@pytest.mark.parametrize("seed", range(5))
def test_announcements_equal_the_encoding_of_dbus_fast(seed: int) -> None:
    draw, encoder = random.Random(seed), LeaseAddedEncoder(INTERFACE)
    for _ in range(400):
        lease = random_lease(draw)
        assert encoder.encode(lease_path(lease.id), lease_state(lease)) == plain(lease)
    assert 0 < len(encoder._templates._templates) <= MAX_TEMPLATES


def test_lease_that_differs_in_id_and_times_needs_no_other_template() -> None:
    encoder, lease = LeaseAddedEncoder(INTERFACE), random_lease(random.Random(1))
    for number in range(10):
        one = replace(lease, id=f"{number:020x}", granted_usec=number, expires_usec=number + 7)
        assert encoder.encode(lease_path(one.id), lease_state(one)) == plain(one)
    assert len(encoder._templates._templates) == (1 if lease.reason != lease.id else 10)


def test_number_of_templates_is_bounded() -> None:
    encoder, lease = LeaseAddedEncoder(INTERFACE), random_lease(random.Random(2))
    for number in range(3 * MAX_TEMPLATES):
        one = replace(lease, reason=f"reason {number}")
        assert encoder.encode(lease_path(one.id), lease_state(one)) == plain(one)
        assert len(encoder._templates._templates) <= MAX_TEMPLATES
