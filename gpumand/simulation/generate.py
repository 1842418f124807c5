"""Demand made from a seed: families that stand for how a host with one GPU is used.

The consumers are those of a real host, with footprints, loading times and work as published for them or measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from gpumand.simulation.demand import Demand, OpenDemand, Use
from gpumand.simulation.host import Host, Simulated, consumer

EXTERNAL_MIB = 600
TOTAL_MIB = 24576

SPREAD = 0.5
"""Standard deviation of the logarithm of how long uses of one consumer take."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of consumer: MiB, seconds to load, to unload, and of work a use brings on average."""

    mib: int
    load_sec: float
    unload_sec: float
    hold_sec: float


KINDS: Mapping[str, Kind] = {
    "llm8": Kind(6000, 4, 0.5, 8),
    "llm14": Kind(10500, 7, 0.7, 12),
    "sdxl": Kind(8500, 9, 1, 8),
    "whisper": Kind(4600, 5, 2, 4),
    "flux": Kind(16500, 22, 1, 25),
    "xtts": Kind(2800, 12, 2, 3),
    "llm32": Kind(20500, 14, 1, 25),
    "vllm8": Kind(14500, 45, 3, 12),
    "kokoro": Kind(2000, 6, 1.5, 1.5),
    "wan": Kind(13000, 18, 1, 45),
    "embed": Kind(1800, 4, 1, 0.5),
    "vlm": Kind(8500, 6, 0.6, 8),
}

SIX = ("llm8", "llm14", "sdxl", "whisper", "flux", "xtts")


@dataclass(frozen=True, slots=True)
class Scene:
    """What is to be simulated."""

    host: Host
    demand: Demand


def host_of(names: Sequence[str], coexists: Mapping[str, Sequence[str]] | None = None) -> Host:
    """One device with these consumers."""
    groups = coexists or {}
    return Host({name: _simulated(name, groups.get(name, ())) for name in names}, (TOTAL_MIB,), EXTERNAL_MIB)


def _simulated(name: str, coexists: Sequence[str]) -> Simulated:
    kind = KINDS[name]
    return consumer(name, kind.mib, kind.load_sec, kind.unload_sec, coexists=coexists)


def hold_sec(random: Random, name: str) -> float:
    """How long one use works."""
    return KINDS[name].hold_sec * random.lognormvariate(-SPREAD * SPREAD / 2, SPREAD)


# -- open demand -------------------------------------------------------------------------------------------------------


def zipf(
    seed: int, requests: int = 660, consumers: int = 12, share: float | None = None, exponent: float = 0.9
) -> Scene:
    """Independent requests, some consumers much more wanted than others.

    Args:
        seed: of everything that is random.
        requests: how many.
        consumers: how many of the consumers there are.
        share: of the time that the work alone takes.
        exponent: of Zipf's law.
    """
    random = Random(f"zipf {seed}")
    names = list(SIX if consumers == 6 else tuple(KINDS)[:consumers])
    random.shuffle(names)
    weights = [1 / (rank + 1) ** exponent for rank in range(len(names))]
    chosen = random.choices(names, weights, k=requests)
    share = (0.3 if consumers <= 6 else 0.2) if share is None else share
    work_sec = sum(weight * KINDS[name].hold_sec for weight, name in zip(weights, names, strict=True)) / sum(weights)
    t, uses = 0.0, []
    for number, name in enumerate(chosen):
        t += random.expovariate(share / work_sec)
        uses.append(Use(t, name, hold_sec(random, name), f"user{number % 4}"))
    return Scene(host_of(names), OpenDemand(uses))


def burst(seed: int, requests: int = 400, consumers: int = 12) -> Scene:
    """Two programs that work through batches: many requests for one consumer, a pause, then perhaps another."""
    random = Random(f"burst {seed}")
    names = tuple(KINDS)[:consumers]
    uses: list[Use] = []
    for client in ("first", "second"):
        t = random.uniform(0, 60)
        name = random.choice(names)
        for _ in range(requests // 2):
            if random.random() < 0.25:
                t += random.expovariate(1 / 180)
                name = random.choice(names)
            t += random.expovariate(1 / (KINDS[name].hold_sec * 3))
            uses.append(Use(t, name, hold_sec(random, name), client))
    return Scene(host_of(names), OpenDemand(sorted(uses, key=lambda use: use.t)))


# -- users who wait for their answers ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Activity:
    """What somebody does for a while: rounds of uses one after the other, with a pause to think after each round."""

    round: tuple[str, ...]
    rounds: tuple[int, int]
    think_sec: float


ACTIVITIES: Mapping[str, _Activity] = {
    "chat": _Activity(("llm8",), (4, 15), 25),
    "code": _Activity(("llm14",), (4, 12), 40),
    "image": _Activity(("sdxl",), (3, 10), 20),
    "voice": _Activity(("whisper", "llm8", "xtts"), (4, 12), 8),
    "vision": _Activity(("vlm",), (3, 8), 25),
    "big": _Activity(("llm32",), (2, 5), 60),
    "video": _Activity(("wan",), (1, 3), 60),
    "picture": _Activity(("flux",), (2, 6), 30),
    "search": _Activity(("embed", "llm8"), (3, 10), 20),
    "fast": _Activity(("vllm8",), (4, 10), 20),
    "speak": _Activity(("kokoro",), (3, 10), 15),
}
OF_SIX = ("chat", "code", "image", "voice", "picture")
OF_TWELVE = tuple(ACTIVITIES)


@dataclass(slots=True)
class _User:
    """Somebody at work; asks for the next thing when the last is done."""

    name: str
    random: Random
    activities: Sequence[str]
    left: int
    rounds: int = 0
    place: int = 0
    doing: _Activity = field(default_factory=lambda: ACTIVITIES["chat"])

    def next(self, now: float) -> list[Use]:
        """The next use; none when enough was done."""
        if self.left <= 0:
            return []
        self.left -= 1
        pause_sec = self._turn()
        name = self.doing.round[self.place]
        return [Use(now + pause_sec, name, hold_sec(self.random, name), self.name)]

    def _turn(self) -> float:
        """Go on with the round, to the next round, or to something else; the pause before it."""
        self.place += 1
        if self.rounds and self.place < len(self.doing.round):
            return self.random.uniform(0.2, 1.0)
        self.place = 0
        self.rounds -= 1
        if self.rounds > 0:
            return self.random.expovariate(1 / self.doing.think_sec)
        self.doing = ACTIVITIES[self.random.choice(self.activities)]
        self.rounds = self.random.randint(*self.doing.rounds)
        return self.random.expovariate(1 / 90)


class _Users:
    """Demand of users who wait for their answers."""

    def __init__(self, users: Sequence[_User]) -> None:
        self._users = {user.name: user for user in users}

    def first(self) -> Sequence[Use]:
        """Everybody begins."""
        return [use for user in self._users.values() for use in user.next(0.0)]

    def after(self, use: Use, ended_at: float) -> Sequence[Use]:
        """Whoever waited for it goes on."""
        return self._users[use.client].next(ended_at)


def session(seed: int, requests: int = 450, consumers: int = 12, users: int = 3) -> Scene:
    """Users who do one thing for a while, wait for each answer, and then do something else."""
    activities = OF_SIX if consumers <= 6 else OF_TWELVE
    names = SIX if consumers <= 6 else tuple(KINDS)
    everybody = [
        _User(f"user{number}", Random(f"session {seed} {number}"), activities, requests // users)
        for number in range(users)
    ]
    return Scene(host_of(names), _Users(everybody))


def pipeline(seed: int, requests: int = 400) -> Scene:
    """A voice assistant whose three stages can coexist, somebody who makes images, and somebody with a larger model."""
    group = ("whisper", "llm8", "kokoro")
    doing = {
        "voice": _Activity(group, (10**9, 10**9), 20),
        "images": _Activity(("sdxl",), (10**9, 10**9), 40),
        "larger": _Activity(("llm14",), (10**9, 10**9), 60),
    }
    share = {"voice": 0.7, "images": 0.2, "larger": 0.1}
    users = [
        _User(name, Random(f"pipeline {seed} {name}"), (), int(requests * share[name]), 10**9, -1, activity)
        for name, activity in doing.items()
    ]
    names = (*group, "sdxl", "llm14")
    return Scene(host_of(names, dict.fromkeys(group, group)), _Users(users))


def roundrobin(seed: int, requests: int = 300) -> Scene:
    """One after the other in turn, one more than fits: what least recently used is worst at."""
    random = Random(f"roundrobin {seed}")
    names = ["llm8", "llm14", "sdxl", "whisper"]
    random.shuffle(names)
    activity = _Activity(tuple(names), (10**9, 10**9), 5)
    user = _User("turns", random, (), requests, 10**9, -1, activity)
    return Scene(host_of(names), _Users([user]))


GENERATORS: Mapping[str, Callable[..., Scene]] = {
    "zipf": zipf,
    "burst": burst,
    "session": session,
    "pipeline": pipeline,
    "roundrobin": roundrobin,
}
