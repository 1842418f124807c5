"""A consumer is where its processes hold memory, not only where it was placed."""

from __future__ import annotations

import logging

import pytest

from gpumand.domain.consumer import ConsumerSpec, EvictionMethod
from gpumand.domain.errors import InsufficientVram
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, lazy, reserved, routed

TWO = (24564, 24564)


async def make_world(*specs: ConsumerSpec) -> FakeWorld:
    world = FakeWorld(specs, total_mib=TWO)
    world.vram.read_sec = READ_SEC
    await world.start()
    return world


async def loaded_on_the_other_gpu(world: FakeWorld, name: str = "llm") -> str:
    """Lease a consumer that is configured for GPU 0, and whose server numbers the GPUs otherwise; return the lease."""
    world.routes.consumer(name).device = 1
    grant = await world.arbiter.acquire(client(1), name, AcquireOptions())
    await world.housekeeping.refresh_all()
    return grant.lease.id


async def test_lease_and_reservation_follow_the_memory_to_another_device() -> None:
    world = await make_world(routed("llm", 16000, devices=("0",)), routed("image", 16000, devices=("0",)))

    lease_id = await loaded_on_the_other_gpu(world)

    lease = world.arbiter.lease(lease_id)
    assert (lease.device, world.arbiter.consumer_status("llm").device, lease.uuids) == ("1", "1", ("FAKE-1",))
    assert (reserved(world, 0), reserved(world, 1)) == ({}, {})
    world.routes.consumer("image").device = 0
    assert (await world.arbiter.acquire(client(2), "image", AcquireOptions())).evicted == (), "GPU 0 is free"


async def test_victim_is_found_on_the_device_that_the_driver_shows() -> None:
    world = await make_world(routed("llm", 16000, devices=("0",)), routed("image", 16000, devices=("1",)))
    lease_id = await loaded_on_the_other_gpu(world)
    await world.arbiter.release(lease_id)
    world.routes.consumer("image").device = 1

    grant = await world.arbiter.acquire(client(2), "image", AcquireOptions())

    assert (grant.evicted, world.routes.consumer("image").ooms) == (("llm",), 0)


async def test_leased_consumer_on_an_unplanned_device_is_waited_for_by_name() -> None:
    world = await make_world(routed("llm", 16000, devices=("0",)), routed("image", 16000, devices=("1",)))
    await loaded_on_the_other_gpu(world)

    plan = await world.arbiter.plan(client(2), "image", AcquireOptions())

    assert str(plan.verdict) == "wait"
    assert "llm" in plan.message


async def test_misplaced_consumer_is_reported_once_with_the_usual_cause(caplog: pytest.LogCaptureFixture) -> None:
    world = await make_world(routed("llm", 16000, devices=("0",)))
    with caplog.at_level(logging.WARNING):
        await loaded_on_the_other_gpu(world)
        await world.housekeeping.refresh_all()

    error = world.arbiter.consumer_status("llm").error
    assert error.startswith("configured for device 0, but its processes hold 15.6 GiB on device 1.")
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in error
    assert [record.getMessage() for record in caplog.records].count(f"consumer llm: {error}") == 1

    world.routes.consumer("llm").device = 0
    await world.arbiter.evict("llm", True, 20.0)
    await world.arbiter.acquire(client(1), "llm", AcquireOptions())
    assert world.arbiter.consumer_status("llm").error == ""


async def test_uuid_in_the_configuration_names_the_device() -> None:
    world = await make_world(routed("llm", 16000, devices=("FAKE-1",)))
    world.routes.consumer("llm").device = 1
    await world.arbiter.acquire(client(1), "llm", AcquireOptions())
    await world.housekeeping.refresh_all()

    assert world.arbiter.consumer_status("llm").error == ""


async def test_context_on_a_second_device_moves_nothing() -> None:
    world = await make_world(routed("llm", 16000, devices=("0",)))
    grant = await world.arbiter.acquire(client(1), "llm", AcquireOptions())
    world.vram.hold(world.routes.consumer("llm").pid, 400, device=1, consumer="llm")
    await world.housekeeping.refresh_all()

    assert world.arbiter.lease(grant.lease.id).device == "0"
    status = world.arbiter.consumer_status("llm")
    assert (status.device, status.error, status.used_by_device) == ("0", "", {0: 16000, 1: 400})


async def test_holders_are_named_where_the_driver_shows_them() -> None:
    pinned = routed("llm", 16000, devices=("0",), pinned=True)
    world = await make_world(pinned, routed("image", 16000, devices=("1",)))
    await world.arbiter.release(await loaded_on_the_other_gpu(world))

    with pytest.raises(InsufficientVram, match=r"held: 15\.6 GiB by llm \(pinned\)"):
        await world.arbiter.acquire(client(2), "image", AcquireOptions())


async def test_memory_of_no_listed_process_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    world = await make_world(routed("image", 20000, devices=("0",)))
    world.vram.hold(1, 9000, name="")
    unlisted = world.vram._processes
    sample = world.vram._sample
    monkeypatch.setattr(world.vram, "_sample", lambda index, error: _hide_processes(sample(index, error)))
    assert unlisted(0)

    with pytest.raises(InsufficientVram, match=r"held: 8\.8 GiB in use by processes that the driver does not name"):
        await world.arbiter.acquire(client(2), "image", AcquireOptions())


def _hide_processes(sample: object) -> object:
    return sample.with_processes(())  # type: ignore[attr-defined]


async def test_lazy_consumer_moves_when_its_model_appears() -> None:
    comfy = lazy("comfy", 13312, devices=("0",), evict=(EvictionMethod.HTTP,))
    world = await make_world(comfy)
    world.routes.consumer("comfy").device = 1
    grant = await world.arbiter.acquire(client(1), "comfy", AcquireOptions())
    await world.housekeeping.refresh_all()
    assert reserved(world, 0) == {"comfy": 13312}

    await world.routes.work(comfy)
    await world.housekeeping.refresh_all()

    assert world.arbiter.lease(grant.lease.id).device == "1"
    assert (reserved(world, 0), reserved(world, 1)) == ({}, {})
