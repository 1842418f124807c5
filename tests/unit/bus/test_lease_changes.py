from __future__ import annotations

import random
from typing import Any

import pytest

from gpumand.bus.interfaces import Interface, own_interfaces
from gpumand.bus.lease_changes import MAX_COUNTS, LeaseChangesEncoder
from gpumand.bus.names import CONSUMER, MANAGER, ROOT_PATH
from gpumand.bus.object_tree import CHANGED_SIGNATURE, ObjectTree, PublishedObject
from gpumand.bus.properties import Values
from gpumand.bus.signal_encoder import encode_body

INTERFACES = own_interfaces()


class Recorder:
    """An emitter that keeps the last body, encoded."""

    def __init__(self) -> None:
        self.content, self.was_encoded = b"", False

    def emit(self, path: str, interface: str, member: str, signature: str, body: Any, **more: Any) -> None:
        self.was_encoded = isinstance(body, bytes)
        self.content = body if self.was_encoded else encode_body(signature, list(body))


def plain(interface: Interface, changed: Values) -> bytes:
    values = PublishedObject("/", interface, {}).variants(changed)
    return encode_body(CHANGED_SIGNATURE, [interface.name, values, []])


def random_changes(draw: random.Random) -> tuple[str, Values]:
    count = draw.choice((0, 1, draw.randrange(600), 2**32, -1))
    if draw.random() < 0.4:
        return MANAGER, {"LeaseCount": count}
    changed: Values = {"Leases": count, "LastUsedUsec": draw.choice((0, draw.randrange(2**60), 2**64, -5))}
    for name in draw.sample(tuple(changed), draw.randrange(2)):
        del changed[name]
    return CONSUMER, changed


@pytest.mark.parametrize("seed", range(5))
def test_changes_by_leases_equal_the_encoding_of_dbus_fast(seed: int) -> None:
    draw, encoder = random.Random(seed), LeaseChangesEncoder()
    for _ in range(1000):
        name, changed = random_changes(draw)
        assert encoder.encode(INTERFACES[name], changed) == plain(INTERFACES[name], changed)
    assert 0 < len(encoder._templates._templates) <= MAX_COUNTS


@pytest.mark.parametrize(
    "changed",
    [{"Leases": 1, "Pinned": True}, {"Residency": "resident"}, {"Leases": 1, "LastUsedUsec": None}, {"Leases": None}],
)
def test_other_changes_and_unknown_values_are_left_to_dbus_fast(changed: Values) -> None:
    assert LeaseChangesEncoder().encode(INTERFACES[CONSUMER], changed) is None


@pytest.mark.parametrize("seed", range(3))
def test_object_tree_announces_the_same_with_and_without_the_encoder(seed: int) -> None:
    draw, fast, slow = random.Random(seed), Recorder(), Recorder()
    trees = [(ObjectTree(fast, LeaseChangesEncoder()), fast), (ObjectTree(slow), slow)]
    state: Values = {"LeaseCount": 0, "QueueLength": 0, "Degraded": ""}
    for tree, _ in trees:
        tree.add(PublishedObject(ROOT_PATH, INTERFACES[MANAGER], state))
        tree.announce = True
    encoded = 0
    for _ in range(500):
        state = state | {"LeaseCount": draw.randrange(5)}
        if draw.random() < 0.1:
            state = state | {"Degraded": draw.choice(("", "device 0: gone", None)), "QueueLength": draw.randrange(3)}
        for tree, _ in trees:
            tree.update(ROOT_PATH, state, ("LeaseCount",))
        assert fast.content == slow.content
        assert not slow.was_encoded
        encoded += fast.was_encoded
    assert 300 < encoded < 500
