"""The end of a lease that changes nothing for waiting requests needs no queue pass, nor does the next lease like it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
from collections.abc import Iterator

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from gpumand.arbiter.arbiter import Arbiter
from gpumand.arbiter.decision_cache import VRAM_READING
from gpumand.arbiter.repeated_grants import RepeatedGrants
from gpumand.arbiter.scheduler import Scheduler
from gpumand.arbiter.unchanged_waits import UnchangedWaits
from gpumand.arbiter.waiting_queue import WaitingQueue
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.domain import queue_policy
from gpumand.domain.consumer import Policy, SchedulerSettings
from gpumand.domain.device import Devices
from gpumand.domain.errors import GpumandError
from gpumand.domain.events import LeaseWanted
from gpumand.domain.planning import decide
from gpumand.domain.queue_pass import QueueDecision, QueueEntry
from gpumand.domain.request import AcquireOptions, Verdict
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import hold_foreign_memory, routed

PINNED = ("p0", "p1")
TIMES = re.compile(r"(ends in|for|for up to) \d+ (s|min)")


class Story:
    """Random demand beside a long queue, played in a world of its own; ``lines`` says what happened.

    Leases on small, pinned consumers come in quick succession. Other requests, of different priorities and for
    different devices, wait for consumers of which one is leased for long. Readings, other programs' memory, turns,
    cancelled requests, evictions and the learned duration of leases come in between. What happens at the same time is
    sorted: a request that is decided in the short form is granted a turn of the event loop earlier than a queued one.
    """

    def __init__(self, seed: int, policy: Policy, is_turned: bool) -> None:
        self._draw = random.Random(seed)
        self.lines: list[str] = []
        specs = [routed(name, 1000, pinned=True) for name in PINNED]
        specs += [routed(f"c{number}", self._draw.choice((2000, 6000, 9000, 14000))) for number in range(4)]
        scheduler = SchedulerSettings(policy=policy, overtake_budget_sec=20.0, min_turn_sec=None if is_turned else 0.0)
        self.world = FakeWorld(specs, scheduler=scheduler, total_mib=self._draw.choice(((24564,), (16384, 16384))))
        for spec in specs:
            self.world.routes.consumer(spec.name).load_sec = 3.0
        # Of one that holds less than its footprint, the rest is reserved during a lease.
        self.world.routes.consumer(PINNED[1]).mib = self._draw.choice((None, 400))
        self._leases: list[tuple[int, str]] = []
        self._new_lines: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def play(self) -> None:
        await self.world.start()
        await self._request(-1, "c0", AcquireOptions(timeout_sec=60.0))
        for name in PINNED:
            await self.world.arbiter.load(name, "", 60.0)
        for number in range(60):
            await self._do_something(number)
            await self.world.clock.sleep(self._draw.choice((0.0, 0.0, 0.01, 0.03, 0.3, 2.0)))
            await self._note()
        while self._leases:
            await self._release()
            await self._note()
        await self.world.clock.sleep(60.0)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        wanted = [event for event in self.world.events if isinstance(event, LeaseWanted)]
        self.lines.append(f"wanted {sorted({(event.lease.consumer, event.by) for event in wanted})}")
        await self.world.arbiter.stop("end")

    async def _do_something(self, number: int) -> None:
        what = self._draw.random()
        if what < 0.3:
            for one in range(self._draw.choice((1, 3))):
                options = AcquireOptions(
                    timeout_sec=self._draw.choice((5.0, 40.0, 300.0)),
                    priority=self._draw.choice((None, None, -20, 30)),
                    device=self._draw.choice(("", "", "0")),
                    exclusive=self._draw.random() < 0.05,
                )
                self._start(100 * number + one, f"c{self._draw.randrange(4)}", options)
        elif what < 0.8:
            await self._lease_again(100 * number)
        elif what < 0.9:
            await self._release()
        elif what < 0.94:
            hold_foreign_memory(self.world, self._draw.choice((100, 3000)))
        elif what < 0.97:
            with contextlib.suppress(GpumandError):
                await self.world.arbiter.evict(f"c{self._draw.randrange(4)}", self._draw.random() < 0.3, 1.0)
        elif self._tasks:
            self._tasks[self._draw.randrange(len(self._tasks))].cancel()

    async def _lease_again(self, number: int) -> None:
        """Acquire and release a pinned consumer several times; sometimes the lease stays."""
        draw = random.Random(self._draw.random())
        for repeat in range(draw.choice((2, 5))):
            name = draw.choice((PINNED[0], PINNED[0], PINNED[1]))
            options = AcquireOptions(timeout_sec=5.0, priority=draw.choice((None, 10)))
            await self._request(number + repeat, name, options)
            if draw.random() < 0.9:
                await self._release(of_last=True)

    def _start(self, number: int, consumer: str, options: AcquireOptions) -> None:
        self._tasks.append(asyncio.create_task(self._request(number, consumer, options)))

    async def _request(self, number: int, consumer: str, options: AcquireOptions) -> None:
        try:
            grant = await self.world.arbiter.acquire(client(number, uid=1000 + number % 3), consumer, options)
        except GpumandError as error:
            self._new_lines.append(f"{number} {consumer} refused: {type(error).__name__}")
        else:
            self._new_lines.append(f"{number} {consumer} granted on {grant.lease.device} after {grant.evicted}")
            self._leases.append((number, grant.lease.id))

    async def _release(self, *, of_last: bool = False) -> None:
        if self._leases:
            lease = self._leases.pop(-1 if of_last else self._draw.randrange(len(self._leases)))
            with contextlib.suppress(GpumandError):
                await self.world.arbiter.release(lease[1])

    async def _note(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        self.lines += sorted(self._new_lines)
        self._new_lines.clear()
        self._leases.sort()
        status = self.world.arbiter.status()
        consumers = [(one.name, one.residency, one.device, one.leases) for one in status.consumers]
        queue = [(one.consumer, one.owner_uid, one.priority) for one in status.queue]
        self.lines.append(f"{consumers} {queue}")


@contextlib.contextmanager
def plain_form() -> Iterator[None]:
    """Let a queue pass follow each end of a lease, and decide each request while others wait."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UnchangedWaits, "hold", lambda self, name, entries: False)
        patch.setattr(RepeatedGrants, "place", lambda self, entry, queue: ())
        yield


def played(seed: int, policy: Policy, is_turned: bool) -> list[str]:
    story = Story(seed, policy, is_turned)
    asyncio.run(story.play())
    return story.lines


@settings(max_examples=12, phases=[Phase.explicit, Phase.generate], derandomize=True)
@given(st.integers(0, 2**32), st.sampled_from(list(Policy)), st.booleans())
def test_short_form_changes_no_outcome(seed: int, policy: Policy, is_turned: bool) -> None:
    short = played(seed, policy, is_turned)
    with plain_form():
        plain = played(seed, policy, is_turned)
    assert short == plain


class Shadow:
    """Makes a whole queue pass beside each one that is left out, and compares what it finds.

    Attributes:
        unchanged: how many ends of leases needed no pass.
        repeated: how many requests were granted without a pass while others waited.
    """

    def __init__(self, scheduler: Scheduler, arbiter: Arbiter) -> None:
        self._scheduler, self._state = scheduler, arbiter.state
        self.unchanged = self.repeated = 0

    def rulings(self, new: WaitingRequest | None = None) -> list[tuple[WaitingRequest, QueueDecision | None]]:
        """What a pass finds about each request; None = a job runs for it. ``new`` takes its place among them."""
        waiting = list(self._scheduler)
        if new is not None:
            waiting.insert(self._scheduler._queue.place(new), new)
        entries = [self._scheduler._queue_entry(one) if one is not new else _entry_of(one) for one in waiting]
        self._scheduler._update_demand(waiting)
        view = self._state.view()
        queue_pass = queue_policy.queue_pass_for(view.settings, entries)
        found: list[tuple[WaitingRequest, QueueDecision | None]] = []
        for one, entry in zip(waiting, entries, strict=True):
            job_devices = self._scheduler._running.devices(one)
            decision = decide(view, entry.requirement)
            ruling = None if job_devices else queue_pass.resolve(view, entry, decision)
            if ruling is None or ruling.decision.verdict is Verdict.WAIT:
                queue_pass.mark_waiting(entry, job_devices or decision.eligible_devices)
            found.append((one, ruling))
        return found

    def check_end(self) -> None:
        """A pass would leave every request waiting for the same reason, and ask no other holder of a lease."""
        self.unchanged += 1
        for one, ruling in self.rulings():
            if ruling is not None:
                assert ruling.decision.verdict is Verdict.WAIT
                if VRAM_READING not in one.waiting_for:
                    assert without_times(ruling.decision.message) == without_times(one.waiting_for)
                announced = self._state.announced_leases.intersection(ruling.decision.leases)
                assert announced <= one.wanted_leases

    def check_grant(self, entry: WaitingRequest, place: Devices) -> None:
        """A pass would grant the request on the same devices, and let it overtake none."""
        self.repeated += 1
        ruling = dict(self.rulings(entry))[entry]
        assert ruling is not None
        assert ruling.decision.verdict is Verdict.GRANT
        assert ruling.decision.resident
        assert (ruling.decision.place, ruling.overtaken) == (place, ())


def without_times(message: str) -> str:
    return TIMES.sub("-", message)


def _entry_of(entry: WaitingRequest) -> QueueEntry:
    return QueueEntry(entry.request.number, entry.requirement, 0.0, entry.request.priority)


@contextlib.contextmanager
def shadowed(story: Story) -> Iterator[Shadow]:
    """Compare every pass that is left out with the pass itself."""
    shadow = Shadow(story.world.arbiter.scheduler, story.world.arbiter)
    hold, place = UnchangedWaits.hold, RepeatedGrants.place

    def checked_hold(self: UnchangedWaits, name: str, entries: tuple[WaitingRequest, ...]) -> bool:
        holds = hold(self, name, entries)
        if holds:
            shadow.check_end()
        return holds

    def checked_place(self: RepeatedGrants, entry: WaitingRequest, queue: WaitingQueue) -> Devices:
        found = place(self, entry, queue)
        if found and len(queue):
            shadow.check_grant(entry, found)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UnchangedWaits, "hold", checked_hold)
        patch.setattr(RepeatedGrants, "place", checked_place)
        yield shadow


@settings(max_examples=12, phases=[Phase.explicit, Phase.generate], derandomize=True)
@given(st.integers(0, 2**32), st.sampled_from(list(Policy)), st.booleans())
def test_passes_left_out_would_change_nothing(seed: int, policy: Policy, is_turned: bool) -> None:
    story = Story(seed, policy, is_turned)
    with shadowed(story):
        asyncio.run(story.play())


def test_stories_contain_passes_of_both_kinds_that_are_left_out() -> None:
    unchanged = repeated = 0
    for seed in range(4):
        story = Story(seed, Policy.LRU, is_turned=False)
        with shadowed(story) as shadow:
            asyncio.run(story.play())
        unchanged, repeated = unchanged + shadow.unchanged, repeated + shadow.repeated

    assert unchanged > 30
    assert repeated > 8
