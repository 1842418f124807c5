"""The exact optimum of small instances: the total wait of the best schedule with full knowledge of the future.

The model has one device, one use at a time, and loads and evictions during which the device is blocked. A state is the
number of served requests in each queue and the set of resident consumers. Of the ways to reach a state, only the Pareto
front is kept: a way is dropped if another is neither later nor has more waiting time. Evicting more than necessary must
be tried too: done early, it may happen while no request waits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import heappop, heappush
from itertools import combinations

from gpumand.simulation.demand import Use
from gpumand.simulation.host import SimulatedHost

MAX_LABELS = 300_000

Resident = frozenset[str]


class TooLarge(Exception):
    """The instance has too many states to be solved."""


@dataclass(frozen=True, slots=True)
class ScheduleRules:
    """The freedom of a schedule.

    Attributes:
        any_order: serve in any order, except that requests for the same consumer keep theirs; else in arrival order.
        load_ahead: load and evict in idle time for requests that have not arrived yet.
    """

    any_order: bool = False
    load_ahead: bool = False


@dataclass(frozen=True, slots=True)
class _Label:
    """A way to reach a state: when the device is free again, and the total waiting time so far, in seconds."""

    free_at: float
    waited: float


class _ParetoFront:
    """The non-dominated ways to reach one state."""

    __slots__ = ("labels",)

    def __init__(self) -> None:
        self.labels: list[_Label] = []

    def add(self, label: _Label) -> bool:
        """Add a way unless another is at least as good; returns whether it was added."""
        if any(one.free_at <= label.free_at and one.waited <= label.waited for one in self.labels):
            return False
        self.labels = [one for one in self.labels if one.free_at < label.free_at or one.waited < label.waited]
        self.labels.append(label)
        return True


State = tuple[tuple[int, ...], Resident]


def least_wait_sec(
    host: SimulatedHost,
    uses: Sequence[Use],
    cushion_mib: int = 0,
    rules: ScheduleRules | None = None,
    at_most: float = float("inf"),
) -> float:
    """The minimum total waiting time of all uses, in seconds.

    Args:
        host: a host with one device.
        uses: all uses, in order of arrival.
        cushion_mib: MiB that stay free in addition to the footprints of resident consumers.
        rules: freedom of the schedule.
        at_most: total of a known schedule, in seconds; it speeds up the search.

    Raises:
        TooLarge: when there are too many states.
        ValueError: when a consumer does not fit on the device.
    """
    return _Search(host, uses, cushion_mib, rules or ScheduleRules(), at_most).run()


class _Search:
    def __init__(
        self, host: SimulatedHost, uses: Sequence[Use], cushion_mib: int, rules: ScheduleRules, at_most: float
    ) -> None:
        self._host, self._rules, self._at_most = host, rules, at_most + 1e-6
        self._room_mib = host.total_mib[0] - host.external_mib - cushion_mib
        self._queues = self._split_queues(uses)
        self._names = sorted({use.consumer for use in uses})
        self._mib = {name: host.consumers[name].spec.vram_resident_mib for name in self._names}
        if any(mib > self._room_mib for mib in self._mib.values()):
            raise ValueError("a consumer does not fit on the device")
        self._load_options = lru_cache(maxsize=None)(self._find_load_options)
        self._labels = 0

    def _split_queues(self, uses: Sequence[Use]) -> list[list[Use]]:
        """Queues that keep their order: one with all uses, or one per consumer."""
        if not self._rules.any_order:
            return [list(uses)]
        names = sorted({use.consumer for use in uses})
        return [[use for use in uses if use.consumer == name] for name in names]

    def run(self) -> float:
        """Search layer by layer; a layer has the states with the same number of served uses."""
        layer: dict[State, _ParetoFront] = {}
        self._add(layer, ((0,) * len(self._queues), frozenset()), _Label(0.0, 0.0))
        for _ in range(sum(len(line) for line in self._queues)):
            if self._rules.load_ahead:
                self._load_ahead(layer)
            following: dict[State, _ParetoFront] = {}
            for (served, resident), front in layer.items():
                for label in front.labels:
                    for state, after in self._serve(served, resident, label):
                        self._add(following, state, after)
            layer = following
        return min((label.waited for front in layer.values() for label in front.labels), default=self._at_most)

    def _add(self, layer: dict[State, _ParetoFront], state: State, label: _Label) -> bool:
        if label.waited + self._lower_bound(state[0], label.free_at) > self._at_most:
            return False
        if not layer.setdefault(state, _ParetoFront()).add(label):
            return False
        self._labels += 1
        if self._labels > MAX_LABELS:
            raise TooLarge(f"more than {MAX_LABELS} states")
        return True

    def _serve(self, served: tuple[int, ...], resident: Resident, label: _Label) -> Iterator[tuple[State, _Label]]:
        """States after serving one more use, for each use that may be next and each way to load its consumer."""
        for place, line in enumerate(self._queues):
            if served[place] == len(line):
                continue
            use = line[served[place]]
            after = (*served[:place], served[place] + 1, *served[place + 1 :])
            ready = max(label.free_at, use.t)
            if use.consumer in resident:
                yield (after, resident), _Label(ready + use.hold_sec, label.waited + ready - use.t)
            elif not self._rules.load_ahead:
                for resident_after, seconds in self._load_options(resident, use.consumer):
                    start = ready + seconds
                    yield (after, resident_after), _Label(start + use.hold_sec, label.waited + start - use.t)

    def _load_ahead(self, layer: dict[State, _ParetoFront]) -> None:
        """Add to a layer all states that loads in advance can reach, including sequences of loads."""
        todo = [(state, label) for state, front in layer.items() for label in front.labels]
        while todo:
            (served, resident), label = todo.pop()
            if label not in layer[served, resident].labels:
                continue  # a better way has replaced it
            for name in self._still_wanted(served) - resident:
                for resident_after, seconds in self._load_options(resident, name):
                    after = _Label(label.free_at + seconds, label.waited)
                    if self._add(layer, (served, resident_after), after):
                        todo.append(((served, resident_after), after))

    def _still_wanted(self, served: tuple[int, ...]) -> set[str]:
        return {use.consumer for line, count in zip(self._queues, served, strict=True) for use in line[count:]}

    def _find_load_options(self, resident: Resident, name: str) -> list[tuple[Resident, float]]:
        """All ways to load a consumer, as the consumers resident afterwards and the duration in seconds."""
        one = self._host.consumers[name]
        evictable = sorted(resident - one.spec.can_coexist_with)
        ways = []
        for count in range(len(evictable) + 1):
            for evicted in combinations(evictable, count):
                resident_after = resident - set(evicted) | {name}
                if sum(self._mib[other] for other in resident_after) <= self._room_mib:
                    unload_sec = sum(self._host.consumers[other].unload_sec for other in evicted)
                    ways.append((resident_after, unload_sec + one.load_sec))
        return ways

    def _lower_bound(self, served: tuple[int, ...], free_at: float) -> float:
        """Lower bound of the remaining waiting time: without any loads, and with the shortest work first."""
        left = sorted(
            (use.t, use.hold_sec) for line, count in zip(self._queues, served, strict=True) for use in line[count:]
        )
        return _preemptive_wait_sec(left, free_at)


def _preemptive_wait_sec(left: Sequence[tuple[float, float]], free_at: float) -> float:
    """Total waiting time of preemptive shortest-remaining-time-first scheduling, which no schedule can undercut."""
    total, now, place, waiting = 0.0, free_at, 0, list[tuple[float, float, float]]()
    while place < len(left) or waiting:
        if not waiting:
            now = max(now, left[place][0])
        while place < len(left) and left[place][0] <= now:
            came, seconds = left[place]
            heappush(waiting, (seconds, came, seconds))
            place += 1
        rest, came, seconds = heappop(waiting)
        until = min(now + rest, left[place][0]) if place < len(left) else now + rest
        if until < now + rest:
            heappush(waiting, (now + rest - until, came, seconds))
        else:
            total += until - came - seconds
        now = until
    return total
