"""The story: every step is done by a client, and what came of it is looked up, not assumed.

24 GiB, and three services that want 13 + 2.8 + 14 of them. The first two live side by side. The third does not fit;
of the two, the one used least recently goes, and the other stays, because with the first gone there is room enough.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from gpumand.bus.connection import Signal
from gpumand.bus.connection_errors import BusError
from gpumand.cli.client import Client
from gpumand.cli.commands.monitor import event_of
from gpumand.cli.durations import to_usec
from gpumand.cli.render.format import listed, mib, usec
from gpumand.cli.render.lines import signal_line
from gpumand.cli.render.plan import plan_lines
from gpumand.demo.example_services import IMAGE, LANGUAGE, TOTAL_MIB, VOICE, Role
from gpumand.demo.screen import Screen
from gpumand.demo.service_client import Services
from gpumand.domain.errors import Busy

WAIT_SEC = 15.0
SOON_SEC = 8.0
PICTURE_SEC = 0.1
CUSHION_MIB = 256

Entry = Mapping[str, Any]


class StoryFailed(Exception):
    """Something was not as it should be; the message is one line."""


@dataclass
class Story:
    """Plays and checks.

    Attributes:
        client: a client of gpumand, as any program may be one.
        services: the services themselves.
        screen: where it is shown.
        signals: what gpumand has announced so far.
        checks: how many facts were checked.
        chapter: what is being played, for when it goes wrong.
    """

    client: Client
    services: Services
    screen: Screen
    signals: list[Signal] = field(default_factory=list)
    checks: int = 0
    chapter: str = ""

    async def play(self) -> None:
        """From the first step to the summary.

        Raises:
            StoryFailed: a step was not as it should be.
            BusError, BusLost, ServiceFailed: somebody did not answer as they should.
        """
        await self.client.listen(self._heard)
        painter = asyncio.ensure_future(self._paint())
        try:
            for number, (title, chapter) in enumerate(self._chapters(), 1):
                self.chapter = f"step {number} ({title})"
                self.screen.step(number, title)
                await chapter()
                self.screen.show(await self.client.status())
                self.screen.still()
                await self.screen.pause()
        finally:
            painter.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await painter

    def _chapters(self) -> list[tuple[str, Callable[[], Coroutine[Any, Any, None]]]]:
        return [
            ("Nothing is loaded", self._nothing_is_loaded),
            (f"{IMAGE.name} ({IMAGE.what}, {mib(IMAGE.mib)}) is used first", self._image_is_used),
            (f"{VOICE.name} ({VOICE.what}, {mib(VOICE.mib)}) fits beside it", self._voice_fits_beside),
            (f"{LANGUAGE.name} ({LANGUAGE.what}, {mib(LANGUAGE.mib)}) does not fit: the plan", self._plan_is_shown),
            (f"{LANGUAGE.name} is acquired", self._room_is_made),
            ("While the lease stands", self._lease_protects),
            ("Afterwards", self._summary),
        ]

    # -- the steps -----------------------------------------------------------------------------------------------

    async def _nothing_is_loaded(self) -> None:
        status = await self._until(lambda one: self._residencies(one) == {"unloaded"}, "all three are unloaded")
        device = status["devices"][0]
        self._require(device.get("total_mib") == TOTAL_MIB, f"a device of {mib(TOTAL_MIB)}", device)
        self._require(device.get("used_mib") == 0, "nothing of it is used", device)
        self._require(not status["degraded"], "gpumand is in good health", status["degraded"])

    async def _image_is_used(self) -> None:
        lease, _ = await self._acquire(IMAGE, evicted=[])
        self.screen.show(await self.client.status())
        await self.services.work(IMAGE.name, 0.2)
        await self._is_resident(IMAGE, "its first request loaded it")
        await self._release(lease, IMAGE)
        await self._is_resident(IMAGE, "it stays resident when its lease is given back")

    async def _voice_fits_beside(self) -> None:
        lease, grant = await self._acquire(VOICE, evicted=[])
        self._require(grant["loaded"] is True, "it was loaded for this", grant)
        await self.services.work(VOICE.name, 0.3)
        await self._is_resident(VOICE, "it is resident")
        await self._is_resident(IMAGE, f"{IMAGE.name} is still there, untouched")
        await self._release(lease, VOICE)
        self._require(await self._evictions() == 0, "nobody was evicted so far")

    async def _plan_is_shown(self) -> None:
        before = await self.client.status()
        plan = await self.client.plan(LANGUAGE.name, {})
        self.screen.lines(plan_lines(plan, self.screen.look))
        victims = [one["consumer"] for one in plan["evictions"]]
        spared = [one["consumer"] for one in plan["spared"]]
        free = before["devices"][0]["free_mib"]
        self._require(plan["verdict"] == "grant", "it would be granted", plan)
        self._require(plan["need_mib"] == LANGUAGE.mib + CUSHION_MIB, "footprint and cushion are asked for", plan)
        self._require(free < plan["need_mib"], "which is more than is free", free)
        self._require(free + VOICE.mib < plan["need_mib"], f"evicting {VOICE.name} alone would not do", free)
        self._require(victims == [IMAGE.name], f"{IMAGE.name} would go, and nobody else", victims)
        self._require(VOICE.name in spared, f"{VOICE.name} would be spared", spared)
        self._require(all(one["why"] for one in [*plan["evictions"], *plan["spared"]]), "each with a reason", plan)
        after = await self.client.status()
        unchanged = _facts(before) == _facts(after)
        self._require(unchanged, "asking for the plan changed nothing", _facts(after))

    async def _room_is_made(self) -> None:
        heard = len(self.signals)
        lease, grant = await self._acquire(LANGUAGE, evicted=[IMAGE.name])
        self._require(grant["loaded"] is True, "one load", grant)
        await self._was_announced(heard, lease)
        status = await self._is_resident(LANGUAGE, "it is resident")
        self._require(status["stats"]["evictions"] == 1, "exactly one eviction", status["stats"])
        await self._gave_its_memory_back(IMAGE)
        await self._was_left_alone(VOICE)
        self._lease = lease

    async def _lease_protects(self) -> None:
        wish = {"lifetime": ("s", "connection"), "timeout_usec": ("t", 0)}
        try:
            await self.client.acquire(IMAGE.name, wish, 0.0)
        except BusError as error:
            named = error.name == Busy.dbus_name
            self._require(named, f"{IMAGE.name}, now or not at all: Busy ({error.message})", f"{error}")
        else:
            raise StoryFailed(f"{IMAGE.name} was granted although the lease on {LANGUAGE.name} stands")
        self._require(await self._evictions() == 1, "that refusal evicted nobody")
        await self.services.work(LANGUAGE.name, 0.5)
        await self._release(self._lease, LANGUAGE)

    async def _summary(self) -> None:
        status = await self.client.status()
        stats = status["stats"]
        counts = (stats["grants"], stats["loads"], stats["evictions"], stats["eviction_failures"])
        self._require(not status["leases"] and not status["queue"], "no lease stands, nobody waits", status["leases"])
        self._require(counts[0] == 3 and counts[2:] == (1, 0), "3 grants, 1 eviction, none that failed", counts)
        announced = [one for one in self.signals if one.member == "EvictionOccurred"]
        self._require(len(announced) == 1, "what was counted is what was announced", len(announced))
        for role in (IMAGE, VOICE, LANGUAGE):
            health = await self.services.health(role.name)
            unharmed = health["oom"] == 0 and health["interrupted"] == 0
            self._require(unharmed, f"{role.name} never ran out of memory, and was never cut off at work", health)

    # -- what they are made of -----------------------------------------------------------------------------------

    async def _acquire(self, role: Role, evicted: list[str]) -> tuple[str, dict[str, Any]]:
        wish = {
            "lifetime": ("s", "connection"),
            "timeout_usec": ("t", to_usec(WAIT_SEC)),
            "reason": ("s", "demonstration"),
        }
        lease, grant = await self.client.acquire(role.name, wish, WAIT_SEC)
        cost = f"evicted {listed(grant['evicted'])}" if grant["evicted"] else "nobody had to go"
        took = usec(grant["waited_usec"])
        self._require(grant["evicted"] == evicted, f"lease granted after {took}: {cost}", grant)
        status = await self.client.status()
        self._require([one["id"] for one in status["leases"]] == [lease], "gpumand shows that lease", status["leases"])
        return lease, grant

    async def _release(self, lease: str, role: Role) -> None:
        heard = len(self.signals)
        await self.client.release(lease)
        ended = await self._signal("LeaseEnded", heard)
        self._require(ended.body == (lease, role.name, "released"), "lease released", ended.body)

    async def _is_resident(self, role: Role, what: str) -> Entry:
        """Both sides agree that it is there, whole."""

        def there(status: Entry) -> bool:
            one = _consumer(status, role)
            return bool(one["residency"] == "resident" and one.get("used_mib") == role.mib)

        status = await self._until(there, f"{what}: gpumand sees {mib(role.mib)}")
        health = await self.services.health(role.name)
        self._require(health["model_loaded"] and health["vram_mib"] == role.mib, "and it says so itself", health)
        return status

    async def _was_announced(self, heard: int, lease: str) -> None:
        """One eviction, seen to free what it should, before the grant."""
        members = [one.member for one in self.signals[heard:] if one.member in ("EvictionOccurred", "LeaseGranted")]
        in_order = members == ["EvictionOccurred", "LeaseGranted"]
        self._require(in_order, "the eviction was announced before the grant", members)
        eviction = await self._signal("EvictionOccurred", heard)
        consumer, _, freed_mib, method, trigger, details = eviction.body
        expected = (IMAGE.name, IMAGE.mib, "http", LANGUAGE.name)
        told = f"{mib(freed_mib)} were seen free after {usec(details['duration_usec'])}, by {method}, for {trigger}"
        self._require((consumer, freed_mib, method, trigger) == expected, told, eviction.body)
        granted = await self._signal("LeaseGranted", heard)
        self._require(granted.body == (lease, LANGUAGE.name), "and the grant names this lease", granted.body)

    async def _gave_its_memory_back(self, role: Role) -> None:
        health, words = await self.services.health(role.name), await self.services.words(role.name)
        self._require(health["vram_mib"] == 0, f"{role.name} says itself that it holds nothing now", health)
        self._require(words.count("unload-called") == 1, "its unload route was called once", words)

    async def _was_left_alone(self, role: Role) -> None:
        health, words = await self.services.health(role.name), await self.services.words(role.name)
        alone = health["vram_mib"] == role.mib and "unload-called" not in words
        self._require(alone, f"{role.name} was left alone, with its {mib(role.mib)}", f"{health}, {words}")

    async def _evictions(self) -> int:
        stats = (await self.client.status())["stats"]
        return int(stats["evictions"] + stats["eviction_failures"])

    def _residencies(self, status: Entry) -> set[str]:
        return {one["residency"] for one in status["consumers"]}

    # -- looking and listening -----------------------------------------------------------------------------------

    def _require(self, truth: bool, what: str, seen: object = "") -> None:
        """Note a fact, or end the story."""
        if not truth:
            self.screen.bad(what)
            raise StoryFailed(f"not so: {what}" + (f" (seen: {seen})" if seen != "" else ""))
        self.checks += 1
        self.screen.good(what)

    async def _until(self, condition: Callable[[Entry], bool], what: str) -> Entry:
        """Ask for the status until it is so; what takes longer than a moment is not so."""
        deadline = asyncio.get_running_loop().time() + SOON_SEC
        while True:
            status = await self.client.status()
            if condition(status) or asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(PICTURE_SEC)
        self._require(condition(status), what, [_fact(one) for one in status["consumers"]])
        return status

    def _heard(self, signal: Signal) -> None:
        self.signals.append(signal)
        self.screen.signal(signal_line(signal.member, event_of(signal, 0)))

    async def _signal(self, member: str, heard: int) -> Signal:
        """The first signal of this name since then; it may still be on its way."""
        deadline = asyncio.get_running_loop().time() + SOON_SEC
        while asyncio.get_running_loop().time() < deadline:
            for signal in self.signals[heard:]:
                if signal.member == member:
                    return signal
            await asyncio.sleep(0.02)
        raise StoryFailed(f"not so: {member} was announced (seen: {[one.member for one in self.signals[heard:]]})")

    async def _paint(self) -> None:
        """Keep the picture moving."""
        while True:
            self.screen.show(await self.client.status())
            await asyncio.sleep(PICTURE_SEC)


def _consumer(status: Entry, role: Role) -> Entry:
    found: Entry = next(one for one in status["consumers"] if one["name"] == role.name)
    return found


def _fact(consumer: Entry) -> tuple[str, str, Any, int]:
    return consumer["name"], consumer["residency"], consumer.get("used_mib"), consumer["leases"]


def _facts(status: Entry) -> tuple[Any, ...]:
    """What a plan must not change."""
    counters = ("evictions", "grants", "loads", "refusals")
    return [_fact(one) for one in status["consumers"]], {name: status["stats"][name] for name in counters}
