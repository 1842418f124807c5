"""Finds out which services are in use, so that no restart ends a leased service's work without a question.

Leases of gpumand count, requests and jobs in the gateway, and work that the busy route of a service reports.
"""

from __future__ import annotations

import asyncio
import pwd
from collections.abc import Iterable, Mapping

from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.gateway_api import GatewayApi
from gpumand.cli.setup.port_wait import unit_state
from gpumand.cli.swap_undo.record import MovedService
from gpumand.client.client import Client
from gpumand.client.errors import GpumandError
from gpumand.client.status_values import StandingLease, Status
from gpumand.config import ConfigProblems, load
from gpumand.consumers.routes import HttpRoutes
from gpumand.domain.consumer import ConsumerSpec
from gpumand.host.clock import SystemClock
from gpumand.host.container_connections import ConsumerConnections

DAEMON = "gpumand.service"
GATEWAY_USER = "_gpumand-gateway"
LOOK = "look"
"""Class of requests that use no model, such as an open web page."""


def services_in_use(bus: str, services: Iterable[MovedService], gateway: GatewayApi) -> dict[str, str]:
    """What each running service works on, by name of the consumer; services that are idle are left out.

    Args:
        bus: "system", or the address of the bus.
        services: the services to ask about.
        gateway: the API of the gateway.

    Raises:
        Failure: gpumand runs and does not answer, so that leases are not known.
    """
    running = [one for one in services if not one.unit or unit_state(one.unit).is_running]
    if not running:
        return {}
    # Leases end when the daemon is stopped, and a call would start it. Its restart keeps them.
    if unit_state(DAEMON).active == "inactive":
        return asyncio.run(_reported_work(None, running))
    try:
        status = asyncio.run(_status(bus))
    except GpumandError as error:
        advice = "Repeat it when gpumand answers, or with --force"
        what = f"the leases of gpumand are unknown: {error.message.rstrip('.')}"
        raise Failure(ExitCode.FAILURE, f"{what}. {advice}") from None
    requests = _requests_in_gateway(gateway) if status.leases else {}
    works = asyncio.run(_reported_work(status, running))
    found = {one.consumer: _use_of(one.consumer, status, requests) or works.get(one.consumer, "") for one in running}
    return {name: what for name, what in found.items() if what}


async def _status(bus: str) -> Status:
    async with Client(bus) as client:
        return await client.status()


def _use_of(consumer: str, status: Status, requests: Mapping[str, int] | None) -> str:
    """Leases and requests of one consumer, as text; "" = it is idle."""
    leases = [one for one in status.leases if one.consumer == consumer]
    gateway_uid = _gateway_uid()
    others = [one for one in leases if one.owner_uid != gateway_uid]
    if others:
        return f"leased to {', '.join(map(_lease, others))}"
    if leases and requests is None:
        return "leased to the gateway, which does not say for how many requests"
    count = requests.get(consumer, 0) if leases and requests else 0
    # After the last request the gateway keeps a lease for a few seconds, in case another one comes.
    return f"used by {count} request{'s' if count > 1 else ''} in the gateway" if count else ""


def _gateway_uid() -> int:
    try:
        return pwd.getpwnam(GATEWAY_USER).pw_uid
    except KeyError:
        return -1


def _lease(lease: StandingLease) -> str:
    reason = f", {lease.reason}" if lease.reason else ""
    return f"{lease.owner or f'user {lease.owner_uid}'} (lease {lease.id[:6]}{reason})"


def _requests_in_gateway(gateway: GatewayApi) -> dict[str, int] | None:
    """The number of requests and held jobs by consumer; None if the gateway does not answer."""
    try:
        found = gateway.get("requests").get("requests", [])
    except Failure:
        return None
    counts: dict[str, int] = {}
    for one in found if isinstance(found, list) else []:
        if isinstance(one, dict) and one.get("class") != LOOK:
            name = str(one.get("consumer", ""))
            counts[name] = counts.get(name, 0) + 1
    return counts


async def _reported_work(status: Status | None, services: Iterable[MovedService]) -> dict[str, str]:
    """What the busy routes of services with a loaded model report; without a status, their health routes know that."""
    try:
        consumers = (await asyncio.to_thread(load, None)).consumers
    except ConfigProblems as error:
        message = f"the configuration has errors, so that no service can be asked whether it works: {error}"
        raise Failure(ExitCode.FAILURE, message) from None
    # A server without its model does no work, and some load it for the question.
    resident = None if status is None else {one.name for one in status.consumers if one.residency == "resident"}
    asked = [consumers[one.consumer] for one in services if one.consumer in consumers]
    asked = [one for one in asked if resident is None or one.name in resident]
    routes = HttpRoutes(SystemClock(), ConsumerConnections(lambda _: None))
    try:
        answers = await asyncio.gather(*(_work(routes, one, is_loaded=resident is not None) for one in asked))
    finally:
        await routes.close()
    return {spec.name: answer for spec, answer in zip(asked, answers, strict=True) if answer}


async def _work(routes: HttpRoutes, spec: ConsumerSpec, *, is_loaded: bool) -> str:
    if spec.busy is None or not (is_loaded or await _may_have_model(routes, spec)):
        return ""
    report = await routes.probe_busy(spec)
    if report.jobs is None:
        return "" if report.refused else f"possibly at work, since it does not say: {report.error}"
    return f"at work on {report.jobs} job{'s' if report.jobs > 1 else ''}" if report.jobs else ""


async def _may_have_model(routes: HttpRoutes, spec: ConsumerSpec) -> bool:
    """Whether the health route of a service does not exclude a loaded model."""
    if spec.health is None:
        return True
    health = await routes.probe_health(spec)
    return not (health.refused or health.sleeping or health.loaded is False)
