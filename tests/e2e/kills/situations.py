"""What the daemon is doing when it is killed: each situation is prepared before the kill and checked after it."""

from __future__ import annotations

import random
import subprocess
from dataclasses import dataclass, field
from enum import StrEnum

from tests.e2e.kills.client_handle import Answer, ClientHandle
from tests.e2e.kills.deployment import BIG, HOUR_USEC, Deployment

WAIT_USEC = 60_000_000


class Situation(StrEnum):
    """What is in progress when the daemon is killed."""

    IDLE = "an idle lease"
    QUEUE = "a queue of waiting requests"
    EVICTION = "an eviction"
    LOAD = "a load"


@dataclass
class Caller:
    """A program that calls Acquire, and repeats the call with the same token after an error."""

    handle: ClientHandle
    consumer: str
    token: str
    number: int = 0
    granted: str = ""

    def ask(self) -> None:
        """Call Acquire without waiting."""
        options: dict[str, str | int] = {"lifetime": "connection", "token": self.token, "timeout_usec": WAIT_USEC}
        self.number = self.handle.start_acquire(self.consumer, **options)

    def outcome(self) -> Answer:
        """Return the answer, which is certain to arrive once the daemon is gone."""
        answer = self.handle.answer(self.number)
        self.granted = "" if answer.error else str(answer.value[0])
        return answer

    def lease(self) -> str:
        """Return the lease id; the request is repeated if the first one failed."""
        if not self.granted:
            self.ask()
            answer = self.outcome()
            assert not answer.error, f"{self.consumer}, requested again: {answer.error}: {answer.message}"
        return self.granted


@dataclass
class Command:
    """``gpumanctl acquire`` in a shell, which survives a restart of the daemon."""

    process: subprocess.Popen[str]

    def outcome(self) -> Answer:
        """Return an empty answer: the command is still waiting."""
        assert self.process.poll() is None, f"gpumanctl has ended:\n{self.process.communicate()}"
        return Answer()

    def lease(self) -> str:
        """Return the lease id that the command printed."""
        out, err = self.process.communicate(timeout=40)
        assert self.process.returncode == 0, f"gpumanctl acquire: {err}"
        return out.strip()


@dataclass
class Scenario:
    """One situation: prepared by ``prepare``, started by ``begin``.

    Attributes:
        held: leases that were taken for the situation and must survive.
        waiters: clients that wait when the daemon is killed.
        blocking: those of ``held`` that must be released before the waiting requests can be granted.
        delay_sec: delay from ``begin`` to the kill.
    """

    deployment: Deployment
    draw: random.Random
    held: set[str] = field(default_factory=set)
    waiters: list[Caller | Command] = field(default_factory=list)
    blocking: set[str] = field(default_factory=set)
    delay_sec: float = 0.0
    consumer: str = ""
    victim: str = ""

    def prepare(self) -> None:
        """Bring consumers and leases into the initial state."""

    def begin(self) -> None:
        """Start the operation; when this returns, it is in progress."""

    def hold(self, consumer: str) -> str:
        """Take a lease for the duration of the situation."""
        lease = self.deployment.observer.acquire(consumer, lifetime="connection")
        self.held.add(lease)
        return lease

    def caller(self, handle: ClientHandle) -> Caller:
        """Request the scenario's consumer from this client."""
        caller = Caller(handle, self.consumer, f"{self.draw.getrandbits(64):x}")
        caller.ask()
        self.waiters.append(caller)
        return caller

    def pair(self) -> list[str]:
        """Return two resident big consumers in random order, after loading them if needed."""
        residents = self.deployment.residents()
        others = [name for name in BIG if name not in residents]
        missing = self.draw.sample(others, 2 - len(residents))
        for name in missing:
            self.deployment.load(name)
        return self.draw.sample([*residents, *missing], 2)


class Idle(Scenario):
    """Leases are active, and nothing is in progress."""

    def prepare(self) -> None:
        self.held.add(self.deployment.keeper.acquire("voice", lifetime="ttl", ttl_usec=HOUR_USEC))
        self.delay_sec = self.draw.uniform(0.0, 0.1)


class Queue(Scenario):
    """Two big consumers are leased, and three requests wait for the third."""

    def prepare(self) -> None:
        pair = self.pair()
        self.blocking = {self.hold(name) for name in pair}
        (self.consumer,) = set(BIG) - set(pair)

    def begin(self) -> None:
        self.caller(self.deployment.observer)
        self.caller(self.deployment.keeper)
        machine = self.deployment.host.machine
        self.waiters.append(Command(machine.start(["gpumanctl", "acquire", self.consumer, "--timeout=30s"])))
        machine.wait_until(lambda: len(self.deployment.observer.status()["queue"]) == 3, "three requests wait")
        self.delay_sec = self.draw.uniform(0.0, 0.1)


class Eviction(Scenario):
    """One consumer is evicted slowly to make room for another."""

    def prepare(self) -> None:
        self.victim, kept = self.pair()
        self.hold(kept)
        (self.consumer,) = set(BIG) - {self.victim, kept}

    def begin(self) -> None:
        self.caller(self.deployment.keeper)
        self.deployment.await_residency(self.victim, "unloading")
        self.delay_sec = self.draw.uniform(0.0, 0.4)


class Load(Scenario):
    """A consumer is loaded slowly."""

    def prepare(self) -> None:
        self.consumer = self.draw.choice(BIG)
        residents = self.deployment.residents()
        others = [name for name in residents if name != self.consumer]
        for name in [*others[1:], *({self.consumer} & set(residents))]:
            self.deployment.evict(name)

    def begin(self) -> None:
        self.caller(self.deployment.keeper)
        self.deployment.await_residency(self.consumer, "loading")
        self.delay_sec = self.draw.uniform(0.0, 0.4)


SCENARIOS: dict[Situation, type[Scenario]] = {
    Situation.IDLE: Idle,
    Situation.QUEUE: Queue,
    Situation.EVICTION: Eviction,
    Situation.LOAD: Load,
}
