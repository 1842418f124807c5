"""A lease that repeats a grant is granted as a queue pass would grant it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from gpumand.arbiter.repeated_grants import RepeatedGrants
from gpumand.arbiter.scheduler import Scheduler
from gpumand.arbiter.unobserved_leases import UnobservedLeases
from gpumand.domain.consumer import Policy, SchedulerSettings
from gpumand.domain.errors import GpumandError
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import hold_foreign_memory, routed


class Story:
    """Random demand for consumers that are mostly resident, played in a world of its own; ``lines`` says what happened.

    Leases come in quick succession, so that most of them repeat a grant, while loads, evictions, losses, exclusive
    leases and other programs' memory come in between. What happens at the same time is sorted: in the short form, a
    request is granted a turn of the event loop earlier than one that is queued.
    """

    def __init__(self, seed: int, policy: Policy, slots: int) -> None:
        self._draw = random.Random(seed)
        self.lines: list[str] = []
        specs = [routed(f"c{number}", self._draw.choice((2000, 6000, 9000))) for number in range(3)]
        specs.append(routed("c3", 4000, load=None))  # lazy: its server loads the model with its first request
        scheduler = SchedulerSettings(policy=policy, concurrent_leases=slots)
        self.world = FakeWorld(specs, scheduler=scheduler, total_mib=self._draw.choice(((24564,), (16384, 16384))))
        for spec in specs:
            self.world.routes.consumer(spec.name).load_sec = 1.0
        self._leases: list[tuple[int, str]] = []
        self._new_lines: list[str] = []

    async def play(self) -> None:
        await self.world.start()
        tasks = []
        for number in range(120):
            what, repeats = self._draw.random(), self._draw.choice((1, 1, 3))
            if what < 0.6:
                tasks += [asyncio.create_task(self._request(100 * number + one)) for one in range(repeats)]
            elif what < 0.9:
                for _ in range(repeats):
                    await self._release()
            elif what < 0.94:
                hold_foreign_memory(self.world, self._draw.choice((100, 5000, 12000)))
            else:
                with contextlib.suppress(GpumandError):
                    await self.world.arbiter.evict(f"c{self._draw.randrange(4)}", self._draw.random() < 0.5, 1.0)
            await self.world.clock.sleep(self._draw.choice((0.0, 0.0, 0.0, 0.01, 0.4, 2.0)))
            for _ in range(10):
                await asyncio.sleep(0)
            self._note_state()
        while self._leases:
            await self._release()
        await self.world.clock.sleep(30.0)
        await asyncio.gather(*tasks, return_exceptions=True)
        self._note_state()
        await self.world.arbiter.stop("end")

    def _note_state(self) -> None:
        status = self.world.arbiter.status()
        consumers = [(one.name, one.residency, one.device, one.leases, one.last_used_usec) for one in status.consumers]
        claims = {one.name: one.claimed for one in self.world.arbiter.state.ledger.consumers.values()}
        reserved = [one.reserved_mib for one in status.devices]
        self.lines += sorted(self._new_lines)
        self._new_lines.clear()
        self._leases.sort()
        self.lines.append(f"{consumers} {claims} {reserved} {len(status.queue)} {status.stats}")

    async def _request(self, number: int) -> None:
        draw = random.Random(number)
        options = AcquireOptions(
            timeout_sec=draw.choice((0.0, 5.0, 20.0)),
            device=draw.choice(("", "", "", "0")),
            exclusive=draw.random() < 0.05,
        )
        consumer = f"c{draw.choice((0, 0, 0, 1, 2, 3))}"
        try:
            grant = await self.world.arbiter.acquire(client(number, uid=1000 + draw.randrange(2)), consumer, options)
        except GpumandError as error:
            self._new_lines.append(f"{number} {consumer} refused: {type(error).__name__}")
        else:
            self._new_lines.append(f"{number} {consumer} granted on {grant.lease.device} after {grant.evicted}")
            self._leases.append((number, grant.lease.id))

    async def _release(self) -> None:
        if self._leases:
            with contextlib.suppress(GpumandError):
                await self.world.arbiter.release(self._leases.pop(self._draw.randrange(len(self._leases)))[1])


@contextlib.contextmanager
def plain_form() -> Iterator[None]:
    """Decide every request by a queue pass, and reconcile at the end of every lease."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RepeatedGrants, "place", lambda self, entry, queue: ())
        patch.setattr(UnobservedLeases, "leaves_nothing_to_reconcile", lambda self, name: False)
        yield


def played(seed: int, policy: Policy, slots: int) -> list[str]:
    story = Story(seed, policy, slots)
    asyncio.run(story.play())
    return story.lines


@settings(max_examples=15, phases=[Phase.explicit, Phase.generate], derandomize=True)
@given(st.integers(0, 2**32), st.sampled_from(list(Policy)), st.sampled_from((0, 0, 2)))
def test_short_form_changes_no_outcome(seed: int, policy: Policy, slots: int) -> None:
    short = played(seed, policy, slots)
    with plain_form():
        plain = played(seed, policy, slots)
    assert short == plain


async def count_of_repeats(monkeypatch: pytest.MonkeyPatch, slots: int = 0, **options: object) -> int:
    """Number of leases that were granted without a queue pass, of ten in a row."""
    repeated = 0
    grant_again = Scheduler.grant_again

    def counted(self: Scheduler, entry: object) -> bool:
        nonlocal repeated
        is_repeated = grant_again(self, entry)  # type: ignore[arg-type]
        repeated += is_repeated
        return is_repeated

    monkeypatch.setattr(Scheduler, "grant_again", counted)
    world = FakeWorld([routed("tts", 1000)], scheduler=SchedulerSettings(concurrent_leases=slots))
    await world.start()
    for _ in range(10):
        grant = await world.arbiter.acquire(client(1), "tts", AcquireOptions(**options))  # type: ignore[arg-type]
        await world.arbiter.release(grant.lease.id)
    return repeated


async def test_leases_one_after_the_other_need_no_queue_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await count_of_repeats(monkeypatch) >= 7, "the first load and the readings after it change the ledger"


@pytest.mark.parametrize(("slots", "options"), [(1, {}), (0, {"exclusive": True})])
async def test_leases_that_depend_on_others_are_decided_by_a_queue_pass(
    monkeypatch: pytest.MonkeyPatch, slots: int, options: dict[str, object]
) -> None:
    assert await count_of_repeats(monkeypatch, slots, **options) == 0
