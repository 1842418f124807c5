"""Going and looking, in virtual time."""

from __future__ import annotations

import asyncio

from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, HealthRoute, Route
from gpumand.testing.world import FakeWorld


def probed(name: str, timeout_sec: float) -> ConsumerSpec:
    health = HealthRoute("/health", loaded="/loaded", timeout_sec=timeout_sec)
    routes = {"load": Route("/load"), "unload": Route("/unload"), "health": health}
    return ConsumerSpec(name, 1000, url=f"http://127.0.0.1/{name}", evict=(EvictionMethod.HTTP,), **routes)  # type: ignore[arg-type]


async def test_one_that_hangs_does_not_delay_the_probes_of_others() -> None:
    world = FakeWorld([probed("hung", 600.0), probed("well", 5.0)])
    await world.start()
    world.routes.consumer("hung").hangs = True
    upkeep = asyncio.create_task(world.upkeep.run())
    await world.clock.advance(60.0)
    upkeep.cancel()
    probes = world.routes.called("probe")
    assert probes.count("well") == 1 + 12, "one at the start, then every 5 s"
    assert probes.count("hung") == 2, "the one that hangs is not probed again meanwhile"
