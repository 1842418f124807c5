"""Generated demand: families of workloads, each determined by a seed, for a host with one GPU.

The consumers are those of a real host; footprints, load times and durations of work are published or measured values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from gpumand.simulation.demand import Demand, OpenDemand, Use
from gpumand.simulation.host import SimulatedConsumer, SimulatedHost, simulated_consumer

EXTERNAL_MIB = 600
TOTAL_MIB = 24576

SPREAD = 0.5
"""Standard deviation of the logarithm of the durations of uses of one consumer."""


@dataclass(frozen=True, slots=True)
class ConsumerKind:
    """A kind of consumer: footprint in MiB, seconds of a load, of an eviction, and mean seconds of work per use."""

    mib: int
    load_sec: float
    unload_sec: float
    hold_sec: float


CONSUMER_KINDS: Mapping[str, ConsumerKind] = {
    "llm8": ConsumerKind(6000, 4, 0.5, 8),
    "llm14": ConsumerKind(10500, 7, 0.7, 12),
    "sdxl": ConsumerKind(8500, 9, 1, 8),
    "whisper": ConsumerKind(4600, 5, 2, 4),
    "flux": ConsumerKind(16500, 22, 1, 25),
    "xtts": ConsumerKind(2800, 12, 2, 3),
    "llm32": ConsumerKind(20500, 14, 1, 25),
    "vllm8": ConsumerKind(14500, 45, 3, 12),
    "kokoro": ConsumerKind(2000, 6, 1.5, 1.5),
    "wan": ConsumerKind(13000, 18, 1, 45),
    "embed": ConsumerKind(1800, 4, 1, 0.5),
    "vlm": ConsumerKind(8500, 6, 0.6, 8),
}

SIX_CONSUMERS = ("llm8", "llm14", "sdxl", "whisper", "flux", "xtts")


@dataclass(frozen=True, slots=True)
class Scenario:
    """A host and the demand on it, to be simulated."""

    host: SimulatedHost
    demand: Demand


def host_of(names: Sequence[str], coexists: Mapping[str, Sequence[str]] | None = None) -> SimulatedHost:
    """A host with one device and these consumers; ``coexists`` lists for each the consumers it can coexist with."""
    groups = coexists or {}
    return SimulatedHost({name: _simulated(name, groups.get(name, ())) for name in names}, (TOTAL_MIB,), EXTERNAL_MIB)


def _simulated(name: str, coexists: Sequence[str]) -> SimulatedConsumer:
    kind = CONSUMER_KINDS[name]
    return simulated_consumer(name, kind.mib, kind.load_sec, kind.unload_sec, coexists=coexists)


def hold_sec(random: Random, name: str) -> float:
    """Random duration of one use, in seconds."""
    return CONSUMER_KINDS[name].hold_sec * random.lognormvariate(-SPREAD * SPREAD / 2, SPREAD)


# -- open demand -------------------------------------------------------------------------------------------------------


def zipf(
    seed: int, requests: int = 660, consumers: int = 12, share: float | None = None, exponent: float = 0.9
) -> Scenario:
    """Independent requests whose consumers follow Zipf's law.

    Args:
        seed: seed of all random choices.
        requests: number of requests.
        consumers: number of consumers.
        share: share of the time that the work alone takes.
        exponent: exponent of Zipf's law.
    """
    random = Random(f"zipf {seed}")
    names = list(SIX_CONSUMERS if consumers == 6 else tuple(CONSUMER_KINDS)[:consumers])
    random.shuffle(names)
    weights = [1 / (rank + 1) ** exponent for rank in range(len(names))]
    chosen = random.choices(names, weights, k=requests)
    share = (0.3 if consumers <= 6 else 0.2) if share is None else share
    work_sec = sum(weight * CONSUMER_KINDS[name].hold_sec for weight, name in zip(weights, names, strict=True)) / sum(
        weights
    )
    t, uses = 0.0, []
    for number, name in enumerate(chosen):
        t += random.expovariate(share / work_sec)
        uses.append(Use(t, name, hold_sec(random, name), f"user{number % 4}"))
    return Scenario(host_of(names), OpenDemand(uses))


def burst(seed: int, requests: int = 400, consumers: int = 12) -> Scenario:
    """Two batch programs: many requests for one consumer, then a pause, then possibly another consumer."""
    random = Random(f"burst {seed}")
    names = tuple(CONSUMER_KINDS)[:consumers]
    uses: list[Use] = []
    for client in ("first", "second"):
        t = random.uniform(0, 60)
        name = random.choice(names)
        for _ in range(requests // 2):
            if random.random() < 0.25:
                t += random.expovariate(1 / 180)
                name = random.choice(names)
            t += random.expovariate(1 / (CONSUMER_KINDS[name].hold_sec * 3))
            uses.append(Use(t, name, hold_sec(random, name), client))
    return Scenario(host_of(names), OpenDemand(sorted(uses, key=lambda use: use.t)))


# -- users that wait for each answer -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Activity:
    """An activity of a user: rounds of consecutive uses, with a pause to think after each round."""

    round: tuple[str, ...]
    rounds: tuple[int, int]
    think_sec: float


ACTIVITIES: Mapping[str, Activity] = {
    "chat": Activity(("llm8",), (4, 15), 25),
    "code": Activity(("llm14",), (4, 12), 40),
    "image": Activity(("sdxl",), (3, 10), 20),
    "voice": Activity(("whisper", "llm8", "xtts"), (4, 12), 8),
    "vision": Activity(("vlm",), (3, 8), 25),
    "big": Activity(("llm32",), (2, 5), 60),
    "video": Activity(("wan",), (1, 3), 60),
    "picture": Activity(("flux",), (2, 6), 30),
    "search": Activity(("embed", "llm8"), (3, 10), 20),
    "fast": Activity(("vllm8",), (4, 10), 20),
    "speak": Activity(("kokoro",), (3, 10), 15),
}
ACTIVITIES_OF_SIX = ("chat", "code", "image", "voice", "picture")
ACTIVITIES_OF_TWELVE = tuple(ACTIVITIES)


@dataclass(slots=True)
class _User:
    """A simulated user, whose next request follows when the previous use is done."""

    name: str
    random: Random
    activities: Sequence[str]
    left: int
    rounds: int = 0
    place: int = 0
    activity: Activity = field(default_factory=lambda: ACTIVITIES["chat"])

    def next(self, now: float) -> list[Use]:
        """The next use; none when the number of requests is used up."""
        if self.left <= 0:
            return []
        self.left -= 1
        pause_sec = self._advance()
        name = self.activity.round[self.place]
        return [Use(now + pause_sec, name, hold_sec(self.random, name), self.name)]

    def _advance(self) -> float:
        """Proceed within the round, to the next round or activity; returns the pause before it in seconds."""
        self.place += 1
        if self.rounds and self.place < len(self.activity.round):
            return self.random.uniform(0.2, 1.0)
        self.place = 0
        self.rounds -= 1
        if self.rounds > 0:
            return self.random.expovariate(1 / self.activity.think_sec)
        self.activity = ACTIVITIES[self.random.choice(self.activities)]
        self.rounds = self.random.randint(*self.activity.rounds)
        return self.random.expovariate(1 / 90)


class _Users:
    """Demand of users that wait for each answer."""

    def __init__(self, users: Sequence[_User]) -> None:
        self._users = {user.name: user for user in users}

    def initial_uses(self) -> Sequence[Use]:
        """The first use of every user."""
        return [use for user in self._users.values() for use in user.next(0.0)]

    def next_uses(self, use: Use, ended_at: float) -> Sequence[Use]:
        """The next use of the user whose use ended."""
        return self._users[use.client].next(ended_at)


def session(seed: int, requests: int = 450, consumers: int = 12, users: int = 3) -> Scenario:
    """Users with changing activities that wait for each answer."""
    activities = ACTIVITIES_OF_SIX if consumers <= 6 else ACTIVITIES_OF_TWELVE
    names = SIX_CONSUMERS if consumers <= 6 else tuple(CONSUMER_KINDS)
    simulated_users = [
        _User(f"user{number}", Random(f"session {seed} {number}"), activities, requests // users)
        for number in range(users)
    ]
    return Scenario(host_of(names), _Users(simulated_users))


def pipeline(seed: int, requests: int = 400) -> Scenario:
    """A voice assistant with three coexisting stages, a user that generates images, and a user of a larger model."""
    group = ("whisper", "llm8", "kokoro")
    activity = {
        "voice": Activity(group, (10**9, 10**9), 20),
        "images": Activity(("sdxl",), (10**9, 10**9), 40),
        "larger": Activity(("llm14",), (10**9, 10**9), 60),
    }
    share = {"voice": 0.7, "images": 0.2, "larger": 0.1}
    users = [
        _User(name, Random(f"pipeline {seed} {name}"), (), int(requests * share[name]), 10**9, -1, activity)
        for name, activity in activity.items()
    ]
    names = (*group, "sdxl", "llm14")
    return Scenario(host_of(names, dict.fromkeys(group, group)), _Users(users))


def roundrobin(seed: int, requests: int = 300) -> Scenario:
    """A cycle through one consumer more than fits, which is the worst case for eviction of the least recently used."""
    random = Random(f"roundrobin {seed}")
    names = ["llm8", "llm14", "sdxl", "whisper"]
    random.shuffle(names)
    activity = Activity(tuple(names), (10**9, 10**9), 5)
    user = _User("turns", random, (), requests, 10**9, -1, activity)
    return Scenario(host_of(names), _Users([user]))


GENERATORS: Mapping[str, Callable[..., Scenario]] = {
    "zipf": zipf,
    "burst": burst,
    "session": session,
    "pipeline": pipeline,
    "roundrobin": roundrobin,
}
