from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from gpumand.daemon.garbage import THRESHOLDS, freeze_startup_objects


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_objects_of_the_start_are_not_collected_again() -> None:
    before = gc.get_freeze_count()
    freeze_startup_objects()
    assert gc.get_freeze_count() > before + 1000
    assert gc.get_threshold() == THRESHOLDS


def test_cycles_made_later_are_still_collected() -> None:
    freeze_startup_objects()
    cycle: list[object] = []
    cycle.append(cycle)
    del cycle
    assert gc.collect() >= 1
