"""A health check that gets no connection says what the host shows about the address."""

from __future__ import annotations

import pytest

from gpumand.consumers.answers import Answer, NoAnswer
from gpumand.consumers.http_request import Request
from gpumand.consumers.routes import HttpRoutes
from gpumand.domain.consumer import ConsumerSpec, HealthRoute, Route
from gpumand.host.clock import SystemClock
from gpumand.ports import RouteFailed

SPEC = ConsumerSpec(
    "comfyui", 1000, url="http://127.0.0.1:8188", health=HealthRoute("/health"), unload=Route("/unload")
)


class Connections:
    async def clients_of(self, url: str, consumer: str = "") -> int | None:
        return None

    async def why_unreachable(self, url: str, consumer: str = "") -> str:
        return f"{url} is published by DNAT only"


class Exchange:
    def __init__(self, failure: NoAnswer) -> None:
        self.failure = failure

    async def request(self, request: Request) -> Answer:
        raise self.failure


def routes_with(failure: NoAnswer) -> HttpRoutes:
    routes = HttpRoutes(SystemClock(), Connections())
    routes._exchange = Exchange(failure)  # type: ignore[assignment]
    return routes


async def test_time_out_comes_with_the_reason() -> None:
    routes = routes_with(NoAnswer("no connection within 5 s"))
    health = await routes.probe_health(SPEC)
    assert health.error == "health route: no connection within 5 s; http://127.0.0.1:8188 is published by DNAT only"
    with pytest.raises(RouteFailed, match="published by DNAT only"):
        await routes.unload(SPEC)


async def test_refused_connection_needs_no_other_reason() -> None:
    health = await routes_with(NoAnswer("nothing listens", refused=True)).probe_health(SPEC)
    assert (health.error, health.refused) == ("health route: nothing listens", True)
