"""The steps of the demonstration; the outcome of every step is checked.

Three services need 13, 2.8 and 14 GiB of a 24 GiB GPU. The first two fit together. For the third, gpumand evicts the
one that was used least recently; the other one stays, because that eviction frees enough memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from gpumand.bus.connection import Signal
from gpumand.bus.connection_errors import BusError
from gpumand.cli.client import Client
from gpumand.cli.commands.monitor import event_of
from gpumand.cli.durations import to_usec
from gpumand.cli.render.format import join_names, mib, usec
from gpumand.cli.render.lines import signal_line
from gpumand.cli.render.plan import plan_lines
from gpumand.demo.example_services import IMAGE, LANGUAGE, TOTAL_MIB, VOICE, ExampleService
from gpumand.demo.screen import Screen
from gpumand.demo.service_client import ServiceClient
from gpumand.demo.steps import ScenarioFailed, Step, Steps
from gpumand.domain.errors import Busy

WAIT_SEC = 30.0
OBSERVE_SEC = 30.0
REFRESH_SEC = 0.1
CUSHION_MIB = 256

Entry = Mapping[str, Any]


@dataclass
class Scenario:
    """Runs the steps and checks their outcome.

    Attributes:
        client: a client of gpumand, without special rights.
        services: the HTTP client of the services.
        screen: where steps and checks are printed.
        signals: signals that gpumand has sent so far.
        checks: number of checks that passed.
    """

    client: Client
    services: ServiceClient
    screen: Screen
    signals: list[Signal] = field(default_factory=list)
    checks: int = 0

    def __post_init__(self) -> None:
        self._runner = Steps(self.screen, self.client.status)

    @property
    def current_step(self) -> str:
        """Number and title of the running step, for error messages."""
        return self._runner.current

    async def run(self) -> None:
        """Run all steps.

        Raises:
            ScenarioFailed: a check failed.
            BusError, BusLost: gpumand answered with an error, or the bus was lost.
            ServiceFailed: a service answered with an error.
        """
        await self.client.listen(self._on_signal)
        refresher = asyncio.ensure_future(self._refresh_bars())
        try:
            await self._runner.run(self._steps())
        finally:
            # An error of the refresher itself must not hide the error of a step.
            refresher.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await refresher

    def _steps(self) -> list[Step]:
        sizes = join_names([f"{one.name} ({mib(one.mib)})" for one in (IMAGE, VOICE, LANGUAGE)])
        image_title = f"{IMAGE.name} ({IMAGE.description}, {mib(IMAGE.mib)}) is leased and loads on its first request"
        voice_title = f"{VOICE.name} ({VOICE.description}, {mib(VOICE.mib)}) is leased; both fit"
        plan_title = f"{LANGUAGE.name} ({LANGUAGE.description}, {mib(LANGUAGE.mib)}) does not fit: the plan"
        lease_title = f"{LANGUAGE.name} is leased: gpumand evicts {IMAGE.name} to make room"
        both = f"Leases on {IMAGE.name}, then {VOICE.name}"
        return [
            Step("No model is loaded", self._check_start, f"{mib(TOTAL_MIB)} for {sizes}"),
            Step(image_title, self._lease_image_service, both),
            Step(voice_title, self._lease_voice_service),
            Step(plan_title, self._plan_language_model, f"The plan for a request for {LANGUAGE.name}"),
            Step(lease_title, self._lease_language_model, f"A lease on {LANGUAGE.name}", shows_device=True),
            Step(
                f"{IMAGE.name} is requested while {LANGUAGE.name} is leased",
                self._request_leased_memory,
                f"A request for {IMAGE.name} while {LANGUAGE.name} is leased is refused",
            ),
            Step("Final checks", self._check_counters),
        ]

    # -- the steps -----------------------------------------------------------------------------------------------

    async def _check_start(self) -> None:
        status = await self._wait_until(
            lambda one: self._residencies(one) == {"unloaded"}, "all three services are unloaded"
        )
        device = status["devices"][0]
        self._check(device.get("total_mib") == TOTAL_MIB, f"the GPU has {mib(TOTAL_MIB)} of VRAM", device)
        self._check(device.get("used_mib") == 0, "none of it is used", device)
        self._check(
            not status["degraded"], "gpumand works without restrictions (it is not degraded)", status["degraded"]
        )

    async def _lease_image_service(self) -> None:
        lease, _ = await self._acquire(IMAGE, evicted=[])
        self.screen.show(await self.client.status())
        await self.services.work(IMAGE.name, 0.2)
        await self._check_resident(IMAGE, f"the first request to {IMAGE.name} loaded its model")
        await self._release(lease, IMAGE)
        await self._check_resident(IMAGE, f"{IMAGE.name} stays resident after its lease is released")

    async def _lease_voice_service(self) -> None:
        lease, grant = await self._acquire(VOICE, evicted=[])
        self._check(grant["loaded"] is True, f"gpumand loaded {VOICE.name} for the lease", grant)
        await self.services.work(VOICE.name, 0.3)
        await self._check_resident(VOICE, f"{VOICE.name} is resident")
        await self._check_resident(IMAGE, f"{IMAGE.name} is still resident")
        await self._release(lease, VOICE)
        self._check(await self._evictions() == 0, "no service has been evicted so far")
        self.screen.story("Both fit, so nothing is evicted. They stay loaded when their leases end.")

    async def _plan_language_model(self) -> None:
        before = await self.client.status()
        plan = await self.client.plan(LANGUAGE.name, {})
        self.screen.details(plan_lines(plan, self.screen.theme))
        victims = [one["consumer"] for one in plan["evictions"]]
        spared = [one["consumer"] for one in plan["spared"]]
        free = before["devices"][0]["free_mib"]
        self._check(plan["verdict"] == "grant", f"a request for {LANGUAGE.name} would be granted", plan)
        self._check(
            plan["need_mib"] == LANGUAGE.mib + CUSHION_MIB,
            f"it needs {mib(plan['need_mib'])}: its footprint and the cushion",
            plan,
        )
        self._check(free < plan["need_mib"], f"only {mib(free)} is free", free)
        self._check(free + VOICE.mib < plan["need_mib"], f"evicting {VOICE.name} would not free enough", free)
        self._check(victims == [IMAGE.name], f"only {IMAGE.name} would be evicted", victims)
        self._check(VOICE.name in spared, f"{VOICE.name} would be kept", spared)
        self._check(
            all(one["why"] for one in [*plan["evictions"], *plan["spared"]]),
            "the plan has a reason for each of them",
            plan,
        )
        after = await self.client.status()
        is_unchanged = _status_facts(before) == _status_facts(after)
        self._check(is_unchanged, "requesting the plan changed nothing", _status_facts(after))
        self.screen.story(
            f"It needs {mib(plan['need_mib'])}, {mib(free)} is free: it would evict {IMAGE.name}, not {VOICE.name}."
        )

    async def _lease_language_model(self) -> None:
        signals_before = len(self.signals)
        lease, grant = await self._acquire(LANGUAGE, evicted=[IMAGE.name])
        self._check(grant["loaded"] is True, f"gpumand loaded {LANGUAGE.name} for the lease", grant)
        await self._check_announcements(signals_before, lease)
        status = await self._check_resident(LANGUAGE, f"{LANGUAGE.name} is resident")
        self._check(status["stats"]["evictions"] == 1, "gpumand counts exactly 1 eviction", status["stats"])
        await self._check_unloaded(IMAGE)
        await self._check_untouched(VOICE)
        eviction = await self._wait_for_signal("EvictionOccurred", signals_before)
        freed = f"{mib(eviction.body[2])} free after {usec(eviction.body[5]['duration_usec'])}"
        waited = usec(grant["waited_usec"])
        self.screen.story(
            f"{IMAGE.name} is asked to unload, and the GPU shows {freed}. "
            f"Then {LANGUAGE.name} is loaded: {waited} in all."
        )
        self._lease = lease

    async def _request_leased_memory(self) -> None:
        options = {"lifetime": ("s", "connection"), "timeout_usec": ("t", 0)}
        try:
            await self.client.acquire(IMAGE.name, options, 0.0)
        except BusError as error:
            is_busy = error.name == Busy.dbus_name
            self._check(
                is_busy, f"a request for {IMAGE.name} that does not wait is refused: Busy ({error.message})", f"{error}"
            )
            self.screen.story(error.message)
        else:
            raise ScenarioFailed(f"{IMAGE.name} was granted although {LANGUAGE.name} is leased")
        self._check(await self._evictions() == 1, "the refused request evicted nothing")
        await self.services.work(LANGUAGE.name, 0.5)
        await self._release(self._lease, LANGUAGE)

    async def _check_counters(self) -> None:
        status = await self.client.status()
        stats = status["stats"]
        counters = (stats["grants"], stats["loads"], stats["evictions"], stats["eviction_failures"])
        self._check(
            not status["leases"] and not status["queue"], "no lease is active and no request waits", status["leases"]
        )
        self._check(
            counters[0] == 3 and counters[2:] == (1, 0),
            "gpumand counts 3 grants, 1 eviction and 0 failed evictions",
            counters,
        )
        announced = [one for one in self.signals if one.member == "EvictionOccurred"]
        self._check(len(announced) == 1, "that eviction was announced on the bus", len(announced))
        for service in (IMAGE, VOICE, LANGUAGE):
            health = await self.services.health(service.name)
            is_healthy = health["oom"] == 0 and health["interrupted"] == 0
            self._check(
                is_healthy, f"{service.name} never ran out of memory and was never interrupted while working", health
            )

    # -- parts of the steps -------------------------------------------------------------------------------------

    async def _acquire(self, service: ExampleService, evicted: list[str]) -> tuple[str, dict[str, Any]]:
        options = {
            "lifetime": ("s", "connection"),
            "timeout_usec": ("t", to_usec(WAIT_SEC)),
            "reason": ("s", "demonstration"),
        }
        # Lifetime "connection": if the demonstration is interrupted, the lease ends with it.
        lease, grant = await self.client.acquire(service.name, options, WAIT_SEC)
        cost = f"evicted {join_names(grant['evicted'])}" if grant["evicted"] else "no eviction was needed"
        took = usec(grant["waited_usec"])
        self._check(grant["evicted"] == evicted, f"lease granted after {took}: {cost}", grant)
        status = await self.client.status()
        self._check([one["id"] for one in status["leases"]] == [lease], "gpumand lists the lease", status["leases"])
        return lease, grant

    async def _release(self, lease: str, service: ExampleService) -> None:
        signals_before = len(self.signals)
        await self.client.release(lease)
        ended = await self._wait_for_signal("LeaseEnded", signals_before)
        self._check(ended.body == (lease, service.name, "released"), "lease released", ended.body)

    async def _check_resident(self, service: ExampleService, description: str) -> Entry:
        """Check that gpumand and the service both report the whole model as loaded."""

        def is_loaded(status: Entry) -> bool:
            one = _consumer(status, service)
            return bool(one["residency"] == "resident" and one.get("used_mib") == service.mib)

        status = await self._wait_until(is_loaded, f"{description}: gpumand reports {mib(service.mib)} in use")
        health = await self.services.health(service.name)
        self._check(
            health["model_loaded"] and health["vram_mib"] == service.mib,
            f"{service.name} reports the same over HTTP",
            health,
        )
        return status

    async def _check_announcements(self, signals_before: int, lease: str) -> None:
        """Check that one eviction, which freed the expected memory, was announced before the grant."""
        members = [
            one.member for one in self.signals[signals_before:] if one.member in ("EvictionOccurred", "LeaseGranted")
        ]
        is_in_order = members == ["EvictionOccurred", "LeaseGranted"]
        self._check(is_in_order, "gpumand announced the eviction before the grant", members)
        eviction = await self._wait_for_signal("EvictionOccurred", signals_before)
        consumer, _, freed_mib, method, trigger, details = eviction.body
        expected = (IMAGE.name, IMAGE.mib, "http", LANGUAGE.name)
        summary = (
            f"{method} freed {mib(freed_mib)} in {usec(details['duration_usec'])}, measured on the GPU, for {trigger}"
        )
        self._check((consumer, freed_mib, method, trigger) == expected, summary, eviction.body)
        granted = await self._wait_for_signal("LeaseGranted", signals_before)
        self._check(granted.body == (lease, LANGUAGE.name), "the announced grant names this lease", granted.body)

    async def _check_unloaded(self, service: ExampleService) -> None:
        health, events = await self.services.health(service.name), await self.services.events(service.name)
        self._check(health["vram_mib"] == 0, f"{service.name} reports over HTTP that it uses no VRAM", health)
        self._check(events.count("unload-called") == 1, "its unload route was called exactly once", events)

    async def _check_untouched(self, service: ExampleService) -> None:
        health, events = await self.services.health(service.name), await self.services.events(service.name)
        is_untouched = health["vram_mib"] == service.mib and "unload-called" not in events
        self._check(
            is_untouched, f"{service.name} was not touched and still uses {mib(service.mib)}", f"{health}, {events}"
        )

    async def _evictions(self) -> int:
        stats = (await self.client.status())["stats"]
        return int(stats["evictions"] + stats["eviction_failures"])

    def _residencies(self, status: Entry) -> set[str]:
        return {one["residency"] for one in status["consumers"]}

    # -- checks and signals --------------------------------------------------------------------------------------

    def _check(self, is_true: bool, description: str, actual: object = "") -> None:
        """Count and print a check that passed; raise ScenarioFailed for one that failed."""
        if not is_true:
            self.screen.check_failed(description)
            raise ScenarioFailed(f"check failed: {description}" + (f" (actual: {actual})" if actual != "" else ""))
        self.checks += 1
        self.screen.check_passed(description)

    async def _wait_until(self, condition: Callable[[Entry], bool], description: str) -> Entry:
        """Request the status until the condition holds, and check it; it must hold within ``OBSERVE_SEC``."""
        deadline = asyncio.get_running_loop().time() + OBSERVE_SEC
        while True:
            status = await self.client.status()
            if condition(status) or asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(REFRESH_SEC)
        self._check(condition(status), description, [_consumer_facts(one) for one in status["consumers"]])
        return status

    def _on_signal(self, signal: Signal) -> None:
        self.signals.append(signal)
        self.screen.signal(signal_line(signal.member, event_of(signal, 0)))

    async def _wait_for_signal(self, member: str, signals_before: int) -> Signal:
        """The first signal of the name after the given number of signals; it may still be in flight."""
        deadline = asyncio.get_running_loop().time() + OBSERVE_SEC
        while asyncio.get_running_loop().time() < deadline:
            for signal in self.signals[signals_before:]:
                if signal.member == member:
                    return signal
            await asyncio.sleep(0.02)
        members = [one.member for one in self.signals[signals_before:]]
        raise ScenarioFailed(f"check failed: {member} was announced (announced: {members})")

    async def _refresh_bars(self) -> None:
        """Update the bars."""
        while True:
            self.screen.show(await self.client.status())
            await asyncio.sleep(REFRESH_SEC)


def _consumer(status: Entry, service: ExampleService) -> Entry:
    found: Entry = next(one for one in status["consumers"] if one["name"] == service.name)
    return found


def _consumer_facts(consumer: Entry) -> tuple[str, str, Any, int]:
    return consumer["name"], consumer["residency"], consumer.get("used_mib"), consumer["leases"]


def _status_facts(status: Entry) -> tuple[Any, ...]:
    """The parts of the status that a plan must not change."""
    counters = ("evictions", "grants", "loads", "refusals")
    return [_consumer_facts(one) for one in status["consumers"]], {name: status["stats"][name] for name in counters}
