"""When the memory of a consumer is at rest, and what shows that a model was loaded."""

from __future__ import annotations

import pytest

from gpumand.cli.memory_watch import LoadWatch, Reading, StabilityDetector


def watch_of(base_mib: int, *later_mib: int, worked: bool = False, used: bool = False) -> LoadWatch:
    """What is known after a base at rest and further readings."""
    watch = LoadWatch(used=used)
    watch.add(Reading(base_mib, 0))
    watch.base_mib = base_mib
    for number, mib in enumerate(later_mib, start=1):
        watch.add(Reading(mib, number, working=worked))
    return watch


@pytest.mark.parametrize(
    ("watch", "seen"),
    [
        (watch_of(448), False),
        (watch_of(448, 448, worked=True), False),  # the work failed
        (watch_of(448, used=True), False),  # the command asked another server
        (watch_of(0, 448), False),  # only the context
        (watch_of(0, 1900), False),  # the context and large plugins
        (watch_of(0, 1900, worked=True), True),
        (watch_of(0, 1900, used=True), True),
        (watch_of(0, 2900), True),
        (watch_of(448, 1000), False),
        (watch_of(448, 1100), True),
        (watch_of(9000), False),  # loaded before
        (watch_of(9000, 9000, worked=True), True),
        (watch_of(9000, used=True), True),
    ],
)
def test_a_load_is_seen_by_growth_or_by_use_of_more_than_an_idle_server_holds(watch: LoadWatch, *, seen: bool) -> None:
    assert watch.load_seen is seen


def test_a_request_that_comes_before_the_memory_is_at_rest_counts() -> None:
    watch = LoadWatch()
    for mib in (0, 448, 9000):
        watch.add(Reading(mib, mib))
    assert watch.load_seen
    small = LoadWatch()
    for mib in (0, 448, 1500):
        small.add(Reading(mib, mib))
    assert not small.load_seen, "a server that starts grows too"


def test_memory_is_not_at_rest_while_the_consumer_works() -> None:
    detector = StabilityDetector(5.0)
    at_rest = [detector.add(9000, at, float(at), working=at < 8) for at in range(14)]
    assert at_rest == [False] * 12 + [True] * 2
