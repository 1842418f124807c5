"""Garbage collections of the daemon: at chosen times, and of everything now and then."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from gpumand.daemon.garbage import FULL_EVERY, GarbageCollections


class Node:
    """An object that refers to itself, so that only a collection frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The collector as it was before the test."""
    yield
    gc.unfreeze()
    gc.enable()


@pytest.fixture
def collections() -> GarbageCollections:
    begun = GarbageCollections()
    begun.begin()
    return begun


def test_allocations_cause_no_collection(collections: GarbageCollections) -> None:
    before = [generation["collections"] for generation in gc.get_stats()]
    kept = [[number] for number in range(200_000)]
    assert [generation["collections"] for generation in gc.get_stats()] == before
    assert len(kept) == 200_000


def test_a_cycle_is_freed_by_the_next_collection(collections: GarbageCollections) -> None:
    freed = weakref.ref(Node())
    assert freed() is not None
    collections.collect()
    assert freed() is None


def test_a_cycle_that_was_in_use_for_several_collections_is_freed_by_a_full_one(
    collections: GarbageCollections,
) -> None:
    node = Node()
    for _ in range(3):
        collections.collect()
    freed = weakref.ref(node)
    del node
    collections.collect()
    assert freed() is not None
    for _ in range(FULL_EVERY):
        collections.collect()
    assert freed() is None


def test_objects_of_the_start_are_left_out(collections: GarbageCollections) -> None:
    assert gc.get_freeze_count() > 10_000
