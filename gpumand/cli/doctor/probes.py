"""Asks the consumers for the doctor: health routes, and busy routes where the question has no side effect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from gpumand.cli.doctor.facts import Facts
from gpumand.consumers.routes import HttpRoutes
from gpumand.domain.consumer import BusyReport, ConsumerSpec, Health
from gpumand.host.clock import SystemClock

PROBE_TIMEOUT_SEC = 5.0
MAX_PARALLEL_CALLS = 16

Answer = TypeVar("Answer")


async def probe_consumers(facts: Facts) -> Facts:
    """The facts with the answers of the consumers. Nothing but these questions is sent to them."""
    specs = facts.consumers.values()
    routes = HttpRoutes(SystemClock())
    try:
        health = await _ask(routes.probe_health, (one for one in specs if one.health is not None), _no_health)
        asked = [one for one in specs if one.busy is not None and _has_model(facts, one, health)]
        busy = await _ask(routes.probe_busy, asked, _no_report)
    finally:
        await routes.close()
    return replace(facts, routes=health, busy=busy)


def _has_model(facts: Facts, spec: ConsumerSpec, health: Mapping[str, Health]) -> bool:
    """Whether its model is loaded: some servers load or wake their model for a busy check."""
    answer = health.get(spec.name)
    if answer is not None and (not answer.reachable or answer.sleeping or answer.loaded is False):
        return False
    is_loaded = answer is not None and answer.loaded is True
    return is_loaded or facts.entries.get(spec.name, {}).get("residency") == "resident"


async def _ask(
    probe: Callable[[ConsumerSpec], Coroutine[Any, Any, Answer]],
    specs: Iterable[ConsumerSpec],
    unanswered: Callable[[], Answer],
) -> dict[str, Answer]:
    """The answers by consumer, a few questions at a time."""
    slots = asyncio.Semaphore(MAX_PARALLEL_CALLS)

    async def ask(spec: ConsumerSpec) -> tuple[str, Answer]:
        async with slots:
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_SEC):
                    return spec.name, await probe(spec)
            except TimeoutError:
                return spec.name, unanswered()

    return dict(await asyncio.gather(*map(ask, specs)))


def _no_health() -> Health:
    return Health(reachable=False, error=f"health route: no answer within {PROBE_TIMEOUT_SEC:g} s")


def _no_report() -> BusyReport:
    return BusyReport(None, error=f"busy route: no answer within {PROBE_TIMEOUT_SEC:g} s")
