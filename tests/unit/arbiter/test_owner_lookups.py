"""Names of the owners of leases: found in the background, also where some of them take long or their lease ends."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gpumand.domain.lease import LeaseLifetime, Owner
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import routed

CONNECTION = AcquireOptions(LeaseLifetime.CONNECTION)


class Directory:
    """A user directory that answers each lookup when the test lets it."""

    def __init__(self, world: FakeWorld) -> None:
        self.asked: list[int] = []
        self._answers: dict[int, asyncio.Future[str]] = {}
        world.owners.named = self._named  # type: ignore[method-assign]

    async def _named(self, owner: Owner, since_usec: int) -> Owner:
        self.asked.append(owner.uid)
        answer = self._answers.setdefault(owner.uid, asyncio.get_running_loop().create_future())
        return replace(owner, user=await answer, program="python3")

    def answer(self, uid: int, user: str) -> None:
        self._answers[uid].set_result(user)


async def make_world() -> tuple[FakeWorld, Directory]:
    world = FakeWorld([routed("a", 4000), routed("b", 22000)])
    directory = Directory(world)
    world.routes.place("a", 4000)
    await world.start()
    return world, directory


def users(world: FakeWorld) -> list[tuple[str, str]]:
    return [(one.owner.user, one.owner.program) for one in world.arbiter.status().leases]


async def test_lease_is_granted_before_the_name_of_its_owner_is_known() -> None:
    world, directory = await make_world()
    await world.arbiter.acquire(client(1, uid=1001), "a", CONNECTION)
    await world.clock.settle()
    assert (users(world), directory.asked) == ([("", "")], [1001])

    directory.answer(1001, "alice")
    await world.clock.settle()
    assert users(world) == [("alice", "python3")]


async def test_owner_whose_name_is_known_is_not_looked_up() -> None:
    world, directory = await make_world()
    await world.arbiter.acquire(replace(client(1), user="alice", program="curl"), "a", CONNECTION)
    await world.clock.settle()
    assert (users(world), directory.asked) == ([("alice", "curl")], [])


async def test_slow_lookup_of_one_owner_does_not_delay_that_of_a_later_lease() -> None:
    world, directory = await make_world()
    for number, uid in ((1, 1001), (2, 1002)):
        await world.arbiter.acquire(client(number, uid=uid), "a", CONNECTION)
    await world.clock.settle()
    directory.answer(1002, "bob")
    await world.clock.settle()
    assert [user for user, _ in users(world)] == ["", "bob"]


async def test_lease_that_ends_during_the_lookup_stays_ended() -> None:
    world, directory = await make_world()
    grant = await world.arbiter.acquire(client(1, uid=1001), "a", CONNECTION)
    await world.clock.settle()
    await world.arbiter.release(grant.lease.id)
    directory.answer(1001, "alice")
    await world.clock.settle()
    assert users(world) == []
    assert world.store.leases == {}


async def test_name_of_an_owner_appears_in_the_reasons_of_requests_that_wait_for_its_lease() -> None:
    world, directory = await make_world()
    await world.arbiter.acquire(client(1, uid=1001), "a", CONNECTION)
    waiting = asyncio.create_task(world.arbiter.acquire(client(2), "b", AcquireOptions(timeout_sec=600)))
    await world.clock.settle()
    (before,) = [one.waiting_for for one in world.arbiter.status().queue]
    directory.answer(1001, "alice")
    await world.clock.settle()
    (after,) = [one.waiting_for for one in world.arbiter.status().queue]
    assert ("alice" in before, "alice" in after) == (False, True)
    waiting.cancel()
