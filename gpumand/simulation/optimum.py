"""The exact optimum of small instances: what the best of all schedules, knowing everything beforehand, would make.

One device, one use at a time, loads and unloads on the device's time. States are how far each consumer's requests have
been served and what is resident; of the ways to reach a state those are kept that are not both later and longer waited
for than another (Pareto). Evicting more than is needed must be tried too: done early, it may be done where nobody
waits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import heappop, heappush
from itertools import combinations

from gpumand.simulation.demand import Use
from gpumand.simulation.host import Host

MAX_LABELS = 300_000

Resident = frozenset[str]


class TooLarge(Exception):
    """The instance has more states than there is patience for."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a schedule may do.

    Attributes:
        any_order: serve in any order, but those for the same consumer in turn; else strictly in the order of coming.
        ahead: load and unload before anybody has come for it, in idle time, knowing who will come.
    """

    any_order: bool = False
    ahead: bool = False


@dataclass(frozen=True, slots=True)
class _Label:
    """A way to a state: when the device is free again, and the waiting so far."""

    free_at: float
    waited: float


class _Front:
    """Ways to one state that no other way is better than."""

    __slots__ = ("labels",)

    def __init__(self) -> None:
        self.labels: list[_Label] = []

    def add(self, label: _Label) -> bool:
        """Keep it unless another is as good; whether it was kept."""
        if any(one.free_at <= label.free_at and one.waited <= label.waited for one in self.labels):
            return False
        self.labels = [one for one in self.labels if one.free_at < label.free_at or one.waited < label.waited]
        self.labels.append(label)
        return True


State = tuple[tuple[int, ...], Resident]


def least_wait_sec(
    host: Host, uses: Sequence[Use], cushion_mib: int = 0, rules: Rules | None = None, at_most: float = float("inf")
) -> float:
    """The least total of all waits, in seconds.

    Args:
        host: with one device.
        uses: all of them, in the order of coming.
        cushion_mib: what stays free on top of what is resident.
        rules: what a schedule may do.
        at_most: a schedule with this total is known; it speeds up the search.

    Raises:
        TooLarge: when it would take too long.
        ValueError: when a consumer does not fit at all.
    """
    return _Search(host, uses, cushion_mib, rules or Rules(), at_most).run()


class _Search:
    def __init__(self, host: Host, uses: Sequence[Use], cushion_mib: int, rules: Rules, at_most: float) -> None:
        self._host, self._rules, self._at_most = host, rules, at_most + 1e-6
        self._room_mib = host.total_mib[0] - host.external_mib - cushion_mib
        self._lines = self._made_lines(uses)
        self._names = sorted({use.consumer for use in uses})
        self._mib = {name: host.consumers[name].spec.vram_resident_mib for name in self._names}
        if any(mib > self._room_mib for mib in self._mib.values()):
            raise ValueError("a consumer does not fit on the device")
        self._ways = lru_cache(maxsize=None)(self._all_ways)
        self._labels = 0

    def _made_lines(self, uses: Sequence[Use]) -> list[list[Use]]:
        """Uses that are served in turn: all of them, or those of each consumer."""
        if not self._rules.any_order:
            return [list(uses)]
        names = sorted({use.consumer for use in uses})
        return [[use for use in uses if use.consumer == name] for name in names]

    def run(self) -> float:
        """Layer by layer, by how many have been served."""
        layer: dict[State, _Front] = {}
        self._add(layer, ((0,) * len(self._lines), frozenset()), _Label(0.0, 0.0))
        for _ in range(sum(len(line) for line in self._lines)):
            if self._rules.ahead:
                self._load_ahead(layer)
            following: dict[State, _Front] = {}
            for (served, resident), front in layer.items():
                for label in front.labels:
                    for state, after in self._serve(served, resident, label):
                        self._add(following, state, after)
            layer = following
        return min((label.waited for front in layer.values() for label in front.labels), default=self._at_most)

    def _add(self, layer: dict[State, _Front], state: State, label: _Label) -> bool:
        if label.waited + self._bound(state[0], label.free_at) > self._at_most:
            return False
        if not layer.setdefault(state, _Front()).add(label):
            return False
        self._labels += 1
        if self._labels > MAX_LABELS:
            raise TooLarge(f"more than {MAX_LABELS} states")
        return True

    def _serve(self, served: tuple[int, ...], resident: Resident, label: _Label) -> Iterator[tuple[State, _Label]]:
        """Each of those that may be next, in each way."""
        for place, line in enumerate(self._lines):
            if served[place] == len(line):
                continue
            use = line[served[place]]
            after = (*served[:place], served[place] + 1, *served[place + 1 :])
            ready = max(label.free_at, use.t)
            if use.consumer in resident:
                yield (after, resident), _Label(ready + use.hold_sec, label.waited + ready - use.t)
            elif not self._rules.ahead:
                for then, seconds in self._ways(resident, use.consumer):
                    start = ready + seconds
                    yield (after, then), _Label(start + use.hold_sec, label.waited + start - use.t)

    def _load_ahead(self, layer: dict[State, _Front]) -> None:
        """Every load that may be done before the next is served, and what may be loaded after that, and so on."""
        todo = [(state, label) for state, front in layer.items() for label in front.labels]
        while todo:
            (served, resident), label = todo.pop()
            if label not in layer[served, resident].labels:
                continue  # a better way was found meanwhile
            for name in self._still_wanted(served) - resident:
                for then, seconds in self._ways(resident, name):
                    after = _Label(label.free_at + seconds, label.waited)
                    if self._add(layer, (served, then), after):
                        todo.append(((served, then), after))

    def _still_wanted(self, served: tuple[int, ...]) -> set[str]:
        return {use.consumer for line, count in zip(self._lines, served, strict=True) for use in line[count:]}

    def _all_ways(self, resident: Resident, name: str) -> list[tuple[Resident, float]]:
        """Every way to load a consumer: what is resident then, and the seconds it takes."""
        one = self._host.consumers[name]
        may_go = sorted(resident - one.spec.can_coexist_with)
        ways = []
        for count in range(len(may_go) + 1):
            for gone in combinations(may_go, count):
                then = resident - set(gone) | {name}
                if sum(self._mib[other] for other in then) <= self._room_mib:
                    unload_sec = sum(self._host.consumers[other].unload_sec for other in gone)
                    ways.append((then, unload_sec + one.load_sec))
        return ways

    def _bound(self, served: tuple[int, ...], free_at: float) -> float:
        """What those left will wait at least: were nothing ever to be loaded, and the shortest be served first."""
        left = sorted(
            (use.t, use.hold_sec) for line, count in zip(self._lines, served, strict=True) for use in line[count:]
        )
        return _shortest_first(left, free_at)


def _shortest_first(left: Sequence[tuple[float, float]], free_at: float) -> float:
    """Total wait when work may be interrupted and what is left shortest goes on: no schedule has less."""
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
