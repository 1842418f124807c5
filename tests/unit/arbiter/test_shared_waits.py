"""Requests that wait alike share the outcome of a queue pass, and are served as if each was decided by itself."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from gpumand.arbiter import shared_waits
from gpumand.arbiter.scheduler import Scheduler
from gpumand.arbiter.shared_waits import SharedWaits
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.domain.consumer import Policy, SchedulerSettings
from gpumand.domain.device import Devices
from gpumand.domain.errors import GpumandError, TimedOut
from gpumand.domain.events import LeaseWanted
from gpumand.domain.queue_pass import QueueEntry, QueuePass
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import hold_foreign_memory, routed

VARIABLE = re.compile(r"\b[0-9a-f]{6,20}\b|ends in \d+ min")


class Story:
    """One random demand, played in a world of its own.

    ``lines`` says what happened, in order, without ids and times. Readings take no time here: with sharing there are
    fewer of them, so that a timeout could otherwise fall into one in one form only.
    """

    def __init__(self, seed: int, policy: Policy, slots: int, is_turned: bool) -> None:
        self._draw = random.Random(seed)
        self.lines: list[str] = []
        specs = [routed(f"c{number}", self._draw.choice((2000, 6000, 9000, 14000))) for number in range(4)]
        turns = {} if is_turned else {"min_turn_sec": 0.0}
        scheduler = SchedulerSettings(policy=policy, concurrent_leases=slots, overtake_budget_sec=20.0, **turns)  # type: ignore[arg-type]
        self._world = FakeWorld(specs, scheduler=scheduler, total_mib=self._draw.choice(((24564,), (16384, 16384))))
        for spec in specs:
            self._world.routes.consumer(spec.name).load_sec = 3.0
        self._leases: list[str] = []

    def _note(self, what: str) -> None:
        self.lines.append(VARIABLE.sub("-", what))

    async def play(self) -> None:
        await self._world.start()
        tasks = []
        for number in range(60):
            what = self._draw.random()
            if what < 0.7:
                tasks.append(asyncio.create_task(self._request(number)))
            elif what < 0.9:
                await self._release()
            elif what < 0.95:
                hold_foreign_memory(self._world, self._draw.choice((100, 3000)))
            else:
                tasks[self._draw.randrange(len(tasks))].cancel() if tasks else None
            await self._world.clock.sleep(self._draw.choice((0.0, 0.001, 0.05, 1.0, 4.0)))
            self._note_queue()
        while self._leases:
            await self._release()
            await self._world.clock.sleep(0.5)
        await self._world.clock.sleep(60.0)
        await asyncio.gather(*tasks, return_exceptions=True)
        wanted = [event for event in self._world.events if isinstance(event, LeaseWanted)]
        self._note(f"wanted {sorted((event.lease.consumer, event.by) for event in wanted)}")
        await self._world.arbiter.stop("end")

    def _note_queue(self) -> None:
        queue = self._world.arbiter.status().queue
        self._note(f"queue {[(one.consumer, one.owner_uid, one.priority) for one in queue]}")

    async def _request(self, number: int) -> None:
        draw = random.Random(self._draw.random())
        options = AcquireOptions(
            timeout_sec=draw.choice((0.0, 5.0, 30.0, 50.0)),
            priority=draw.choice((None, None, 0, 50)),
            exclusive=draw.random() < 0.1,
        )
        consumer = f"c{draw.randrange(4)}"
        try:
            grant = await self._world.arbiter.acquire(client(number, uid=1000 + draw.randrange(3)), consumer, options)
        except GpumandError as error:
            # The reason of a request that times out may be newer with sharing: that of the last one that waits alike.
            reason = "" if isinstance(error, TimedOut) else error
            self._note(f"{number} {consumer} refused: {type(error).__name__} {reason}")
        else:
            self._note(f"{number} {consumer} granted on {grant.lease.device} after {grant.evicted}")
            self._leases.append(grant.lease.id)

    async def _release(self) -> None:
        if self._leases:
            with contextlib.suppress(GpumandError):
                await self._world.arbiter.release(self._leases.pop(self._draw.randrange(len(self._leases))))


@contextlib.contextmanager
def plain_form() -> Iterator[None]:
    """Decide every request by itself in every pass."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_waits, "is_plain", lambda entry: False)
        yield


def played(seed: int, policy: Policy, slots: int, is_turned: bool) -> list[str]:
    story = Story(seed, policy, slots, is_turned)
    asyncio.run(story.play())
    return story.lines


@settings(max_examples=12, phases=[Phase.explicit, Phase.generate], derandomize=True)
@given(st.integers(0, 2**32), st.sampled_from(list(Policy)), st.integers(0, 2), st.booleans())
def test_sharing_changes_no_outcome(seed: int, policy: Policy, slots: int, is_turned: bool) -> None:
    shared = played(seed, policy, slots, is_turned)
    with plain_form():
        plain = played(seed, policy, slots, is_turned)
    assert shared == plain


def test_a_long_queue_is_decided_once_per_requirement(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of decided requests does not grow with the length of the queue."""
    decided: list[str] = []
    serve = Scheduler._serve

    def counted(self: Scheduler, entry: WaitingRequest, queue_entry: QueueEntry, queue_pass: QueuePass) -> Devices:
        decided.append(entry.request.consumer)
        return serve(self, entry, queue_entry, queue_pass)

    monkeypatch.setattr(Scheduler, "_serve", counted)

    async def run(waiting: int) -> int:
        world = FakeWorld([routed("tts", 1000, pinned=True), routed("held", 14000), routed("wanted", 9500)])
        await world.start()
        await world.arbiter.acquire(client(1, uid=9001), "held", AcquireOptions(timeout_sec=60.0))
        await world.arbiter.load("tts", "", 60.0)
        options = AcquireOptions(timeout_sec=600.0)
        tasks = [
            asyncio.create_task(world.arbiter.acquire(client(2, uid=uid), "wanted", options)) for uid in range(waiting)
        ]
        await world.clock.sleep(5.0)
        decided.clear()
        for _ in range(3):
            grant = await world.arbiter.acquire(client(3, uid=9000), "tts", options)
            await world.arbiter.release(grant.lease.id)
            await world.clock.sleep(0.1)
        count = len(decided)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await world.arbiter.stop("end")
        return count

    few, many = asyncio.run(run(3)), asyncio.run(run(300))
    assert few == many


@pytest.mark.parametrize("follows", [True, False])
async def test_grant_within_a_pass_outdates_the_outcomes_before_it(
    monkeypatch: pytest.MonkeyPatch, follows: bool
) -> None:
    """A request that is granted between two that wait alike changes what the second one waits for.

    Without ``follow_ledger``, the second one would keep the outcome of the first.
    """
    if not follows:
        monkeypatch.setattr(SharedWaits, "follow_ledger", lambda self: None)
    world = FakeWorld([routed("held", 14000), routed("between", 1000, pinned=True), routed("wanted", 9500)])
    await world.start()
    for number, name in enumerate(("held", "between")):
        grant = await world.arbiter.acquire(client(number), name, AcquireOptions(timeout_sec=60.0))
        if name == "between":
            await world.arbiter.release(grant.lease.id)
    tasks = [
        asyncio.create_task(
            world.arbiter.acquire(client(3), "wanted", AcquireOptions(timeout_sec=600.0, priority=priority))
        )
        for priority in (50, -50)
    ]
    await world.clock.sleep(5.0)
    first, second = world.arbiter.scheduler
    assert first.group is second.group is not None
    assert "between" not in first.waiting_for
    passes = record_passes(monkeypatch)
    await world.arbiter.acquire(client(4), "between", AcquireOptions(priority=0))
    assert passes[0] == (["wanted", "between", "wanted"] if follows else ["wanted", "between"])
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await world.arbiter.stop("end")


def record_passes(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """For each queue pass from now on, the consumers of the requests that it decides, for themselves or for others."""
    passes: list[list[str]] = []
    serve, decide_all = Scheduler._serve, Scheduler._decide_all

    def served(self: Scheduler, entry: WaitingRequest, queue_entry: QueueEntry, queue_pass: QueuePass) -> Devices:
        passes[-1].append(entry.request.consumer)
        return serve(self, entry, queue_entry, queue_pass)

    def decided(self: Scheduler, entries: Sequence[WaitingRequest], *, is_for_new: bool) -> None:
        passes.append([])
        decide_all(self, entries, is_for_new=is_for_new)

    monkeypatch.setattr(Scheduler, "_serve", served)
    monkeypatch.setattr(Scheduler, "_decide_all", decided)
    return passes
