"""In the middle of what the daemon is killed: each moment is arranged, begun, and after the blow brought to its end."""

from __future__ import annotations

import random
import subprocess
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from tests.e2e.kills.handle import Answer, Handle
from tests.e2e.kills.scene import BIG, HOUR_USEC, Scene

WAIT_USEC = 60_000_000


class Moment(StrEnum):
    """What is going on when the daemon is killed."""

    IDLE = "an idle lease"
    QUEUE = "a queue of waiting requests"
    EVICTION = "an eviction"
    LOAD = "a load"


class Waiter(Protocol):
    """Somebody who waits for a lease."""

    def outcome(self) -> Answer:
        """What came of the first asking."""

    def lease(self) -> str:
        """The lease that it has in the end, whatever it had to do for it."""


@dataclass
class Caller:
    """A program that calls Acquire, and again with the same token where the answer is an error."""

    handle: Handle
    consumer: str
    token: str
    number: int = 0
    granted: str = ""

    def ask(self) -> None:
        """Ask, without waiting."""
        options: dict[str, str | int] = {"lifetime": "connection", "token": self.token, "timeout_usec": WAIT_USEC}
        self.number = self.handle.ask_for(self.consumer, **options)

    def outcome(self) -> Answer:
        """What came of it, which is certain once the daemon is gone."""
        answer = self.handle.answer(self.number)
        self.granted = "" if answer.error else str(answer.value[0])
        return answer

    def lease(self) -> str:
        """Ask again where the first asking came to nothing."""
        if not self.granted:
            self.ask()
            answer = self.outcome()
            assert not answer.error, f"{self.consumer}, asked for again: {answer.error}: {answer.message}"
        return self.granted


@dataclass
class Command:
    """``gpumanctl acquire`` of somebody at a shell, who does not know that there is a daemon."""

    process: subprocess.Popen[str]

    def outcome(self) -> Answer:
        """It waits on."""
        assert self.process.poll() is None, f"gpumanctl has ended:\n{self.process.communicate()}"
        return Answer()

    def lease(self) -> str:
        """What it printed."""
        out, err = self.process.communicate(timeout=40)
        assert self.process.returncode == 0, f"gpumanctl acquire: {err}"
        return out.strip()


@dataclass
class Play:
    """One moment being played.

    Attributes:
        held: leases that were taken for it, and must stand.
        waiters: who waits when the blow falls.
        in_the_way: which of ``held`` have to be given back before the waiters can have what they want.
        delay_sec: how long after its beginning the blow falls.
    """

    scene: Scene
    draw: random.Random
    held: set[str] = field(default_factory=set)
    waiters: list[Caller | Command] = field(default_factory=list)
    in_the_way: set[str] = field(default_factory=set)
    delay_sec: float = 0.0
    consumer: str = ""
    victim: str = ""

    def arrange(self) -> None:
        """Bring about what the moment needs."""

    def begin(self) -> None:
        """Begin it; when this returns, it is now."""

    def hold(self, consumer: str) -> str:
        """Take a lease for the time of the moment."""
        lease = self.scene.observer.acquire(consumer, lifetime="connection")
        self.held.add(lease)
        return lease

    def caller(self, handle: Handle) -> Caller:
        """Have a program ask for what this is about."""
        caller = Caller(handle, self.consumer, f"{self.draw.getrandbits(64):x}")
        caller.ask()
        self.waiters.append(caller)
        return caller

    def pair(self) -> list[str]:
        """Two big ones that are resident, in any order; they are loaded where it must be."""
        residents = self.scene.residents()
        others = [name for name in BIG if name not in residents]
        missing = self.draw.sample(others, 2 - len(residents))
        for name in missing:
            self.scene.load(name)
        return self.draw.sample([*residents, *missing], 2)


class Idle(Play):
    """Leases stand, and nothing happens."""

    def arrange(self) -> None:
        self.held.add(self.scene.keeper.acquire("voice", lifetime="ttl", ttl_usec=HOUR_USEC))
        self.delay_sec = self.draw.uniform(0.0, 0.1)


class Queue(Play):
    """Both places are leased, and three wait for what has none."""

    def arrange(self) -> None:
        pair = self.pair()
        self.in_the_way = {self.hold(name) for name in pair}
        (self.consumer,) = set(BIG) - set(pair)

    def begin(self) -> None:
        self.caller(self.scene.observer)
        self.caller(self.scene.keeper)
        machine = self.scene.host.machine
        self.waiters.append(Command(machine.start(["gpumanctl", "acquire", self.consumer, "--timeout=30s"])))
        machine.wait_until(lambda: len(self.scene.observer.status()["queue"]) == 3, "three wait")
        self.delay_sec = self.draw.uniform(0.0, 0.1)


class Eviction(Play):
    """One gives its memory back, slowly, for another one."""

    def arrange(self) -> None:
        self.victim, kept = self.pair()
        self.hold(kept)
        (self.consumer,) = set(BIG) - {self.victim, kept}

    def begin(self) -> None:
        self.caller(self.scene.keeper)
        self.scene.await_residency(self.victim, "unloading")
        self.delay_sec = self.draw.uniform(0.0, 0.4)


class Load(Play):
    """One takes its memory, slowly."""

    def arrange(self) -> None:
        self.consumer = self.draw.choice(BIG)
        residents = self.scene.residents()
        others = [name for name in residents if name != self.consumer]
        for name in [*others[1:], *({self.consumer} & set(residents))]:
            self.scene.evict(name)

    def begin(self) -> None:
        self.caller(self.scene.keeper)
        self.scene.await_residency(self.consumer, "loading")
        self.delay_sec = self.draw.uniform(0.0, 0.4)


PLAYS: dict[Moment, type[Play]] = {
    Moment.IDLE: Idle,
    Moment.QUEUE: Queue,
    Moment.EVICTION: Eviction,
    Moment.LOAD: Load,
}
