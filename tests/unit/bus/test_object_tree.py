from __future__ import annotations

from typing import Any

import pytest
from dbus_fast import Variant

from gpumand.bus.interfaces import own_interfaces
from gpumand.bus.names import MANAGER, ROOT_PATH
from gpumand.bus.object_tree import ObjectTree, PublishedObject
from gpumand.bus.send_queue import Lane


class RecordingEmitter:
    def __init__(self) -> None:
        self.signals: list[tuple[str, tuple[Any, ...], Lane]] = []

    def emit(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str,
        body: tuple[Any, ...] | bytes,
        *,
        lane: Lane,
        checked: bool,
    ) -> None:
        assert not isinstance(body, bytes)
        self.signals.append((member, body, lane))


@pytest.fixture
def emitter() -> RecordingEmitter:
    return RecordingEmitter()


@pytest.fixture
def tree(emitter: RecordingEmitter) -> ObjectTree:
    tree = ObjectTree(emitter)
    tree.add(PublishedObject(ROOT_PATH, own_interfaces()[MANAGER], {"LeaseCount": 1, "QueueLength": 0}))
    tree.announce = True
    return tree


def test_only_values_that_differ_are_announced(tree: ObjectTree, emitter: RecordingEmitter) -> None:
    tree.update(ROOT_PATH, {"LeaseCount": 2, "QueueLength": 0})
    assert emitter.signals == [("PropertiesChanged", (MANAGER, {"LeaseCount": Variant("u", 2)}, []), Lane.STATE)]
    tree.update(ROOT_PATH, {"LeaseCount": 2, "QueueLength": 0})
    assert len(emitter.signals) == 1


def test_count_that_went_up_and_down_again_is_announced_with_its_last_value(
    tree: ObjectTree, emitter: RecordingEmitter
) -> None:
    tree.update(ROOT_PATH, {"LeaseCount": 1, "QueueLength": 0}, touched=("LeaseCount",))
    assert emitter.signals == [("PropertiesChanged", (MANAGER, {"LeaseCount": Variant("u", 1)}, []), Lane.STATE)]


def test_unknown_value_is_invalidated(tree: ObjectTree, emitter: RecordingEmitter) -> None:
    tree.update(ROOT_PATH, {"LeaseCount": None, "QueueLength": 0})
    assert emitter.signals == [("PropertiesChanged", (MANAGER, {}, ["LeaseCount"]), Lane.STATE)]
