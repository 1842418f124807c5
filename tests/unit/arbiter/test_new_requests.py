"""New requests: their order of arrival, their priority, and whether they come from the consumer's own unit."""

from __future__ import annotations

import pytest

from gpumand.arbiter.new_requests import NO_CLIENT, NewRequests
from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.errors import NoSuchConsumer, NoSuchDevice
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import by_unit, routed


async def make_requests(*specs: ConsumerSpec) -> tuple[FakeWorld, NewRequests]:
    world = FakeWorld(specs, total_mib=(24564, 24564))
    await world.start()
    return world, NewRequests(world.arbiter.state)


async def test_requests_are_numbered_in_the_order_of_their_arrival() -> None:
    world, requests = await make_requests(routed("a", 4000), routed("b", 4000))
    first = requests.make(client(1), "a", AcquireOptions())
    await world.clock.sleep(5.0)
    second = requests.make_load("b", 60.0)
    third = requests.make(client(1), "a", AcquireOptions())
    numbers = [one.request.number for one in (first, second, third)]
    assert numbers == sorted(set(numbers))
    assert second.request.arrived_at - first.request.arrived_at == 5.0


@pytest.mark.parametrize(("asked", "expected"), [(None, 30), (0, 0), (-100, -100), (100, 100)])
async def test_priority_of_the_request_counts_before_that_of_the_consumer(asked: int | None, expected: int) -> None:
    _, requests = await make_requests(routed("a", 4000, priority=30))
    assert requests.make(client(1), "a", AcquireOptions(priority=asked)).request.priority == expected


@pytest.mark.parametrize(
    ("own_unit", "unit_of_caller", "expected"),
    [("a.service", "a.service", True), ("a.service", "b.service", False), ("a.service", "", False), ("", "", False)],
)
async def test_only_a_caller_in_the_unit_of_the_consumer_is_its_own(
    own_unit: str, unit_of_caller: str, expected: bool
) -> None:
    _, requests = await make_requests(by_unit("a", 4000) if own_unit else routed("a", 4000))
    made = requests.make(client(1, unit=unit_of_caller), "a", AcquireOptions())
    assert made.from_own_unit is expected


async def test_load_of_an_administrator_has_no_client_and_wants_no_lease() -> None:
    _, requests = await make_requests(routed("a", 4000))
    load = requests.make_load("a", 60.0, "1")
    assert (load.request.owner, load.wants_lease, load.devices) == (NO_CLIENT, False, (1,))
    assert load.request.options.timeout_sec == 60.0
    assert requests.make(client(1), "a", AcquireOptions()).wants_lease


async def test_decision_of_a_new_request_needs_a_reading_that_begins_after_it() -> None:
    world, requests = await make_requests(routed("a", 4000))
    await world.clock.sleep(3.0)
    assert requests.make(client(1), "a", AcquireOptions()).progress.sample_after == world.clock.monotonic()


async def test_unknown_consumers_and_devices_have_errors_of_their_own() -> None:
    _, requests = await make_requests(routed("a", 4000))
    with pytest.raises(NoSuchConsumer):
        requests.make(client(1), "b", AcquireOptions())
    with pytest.raises(NoSuchDevice):
        requests.make_load("a", 60.0, "7")
