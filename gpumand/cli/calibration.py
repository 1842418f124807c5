"""Measuring a consumer: loaded under a lease until its memory is still, then unloaded by each of its methods in turn.

Figures are the daemon's; nothing here reads a device itself. The lease is bound to our connection, so that nothing
stays behind however this ends, and nobody is evicted whom an Acquire would not evict.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from gpumand.bus.connection_errors import BusError
from gpumand.cli.client import Client
from gpumand.cli.commands.show import consumer_of
from gpumand.cli.durations import to_usec
from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.options import GlobalOptions
from gpumand.cli.progress import watched
from gpumand.cli.render.format import mib, usec
from gpumand.domain.errors import FREEDESKTOP, OWN
from gpumand.domain.eviction_check import SLACK_MIB
from gpumand.domain.footprint import AT_REST_SEC

if TYPE_CHECKING:
    from gpumand.bus.connection import Signal

Entry = Mapping[str, Any]
T = TypeVar("T")

SETTLE_SEC = 3.0
"""So long after an unload what is still there stays there."""

POLL_SEC = 0.25

REFUSED = (OWN + "EvictionFailed", OWN + "Busy", OWN + "TimedOut", FREEDESKTOP + "AccessDenied")
"""What an eviction may end with, so that what was measured before is still worth telling."""

REASON = "calibrate"


@dataclass(frozen=True, slots=True)
class Unload:
    """What came of one method.

    Attributes:
        method: which.
        duration_usec: how long it took until the memory was seen free.
        freed_mib: how much that was.
        residual_mib: what was still held some seconds later; None where that cannot be told.
        error: why it failed by the daemon's word; "" when it did not.
    """

    method: str
    duration_usec: int = 0
    freed_mib: int = 0
    residual_mib: int | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured.

    Attributes:
        consumer: of whom.
        declared_mib: its footprint as configured.
        steady_mib: what it holds while it rests; of several loads the most.
        peak_mib: the most that it held.
        loads_usec: how long loads took, in order.
        unloads: by method.
    """

    consumer: str
    declared_mib: int
    steady_mib: int = 0
    peak_mib: int = 0
    loads_usec: tuple[int, ...] = ()
    unloads: tuple[Unload, ...] = ()


@dataclass
class Stillness:
    """Says when a figure has stopped moving; only figures of new samples count."""

    for_sec: float
    peak_mib: int = 0
    _figure_mib: int = -1
    _since_sec: float = 0.0
    _stamp: int = -1

    def feed(self, figure_mib: int, stamp: int, now_sec: float) -> bool:
        """Whether it has been still for long enough, with this figure of a sample with that time stamp."""
        self.peak_mib = max(self.peak_mib, figure_mib)
        if abs(figure_mib - self._figure_mib) > SLACK_MIB or self._figure_mib < 0:
            self._figure_mib, self._since_sec, self._stamp = figure_mib, now_sec, stamp
        return stamp != self._stamp and now_sec - self._since_sec >= self.for_sec


@dataclass
class Calibrator:
    """Measures one consumer.

    Attributes:
        client: to ask.
        name: of the consumer.
        timeout_sec: for each wait: until it is granted, until its memory is there, until that is still.
        say: tells a person what is being done.
        show: shows a figure that changes, "" for nothing any more.
        options: the shared ones, for the progress of calls that wait.
    """

    client: Client
    name: str
    timeout_sec: float
    say: Callable[[str], None]
    show: Callable[[str], None]
    options: GlobalOptions
    _ended: dict[str, str] = field(default_factory=dict, init=False)
    _lease: str = field(default="", init=False)

    async def run(self) -> Calibration:
        """Measure. Raises Failure, and what the client raises."""
        await self.client.listen_for_ends(self._hear)
        entry = consumer_of(await self.client.status(), self.name)
        self._require_figures(entry)
        was_resident = entry["residency"] == "resident"
        result = Calibration(self.name, int(entry["vram_resident_mib"]))
        for method in tuple(entry.get("evict") or ()) or ("",):
            result = await self._load(entry, result)
            if method:
                result = replace(result, unloads=(*result.unloads, await self._unload(method, result.steady_mib)))
        if was_resident and result.unloads and not entry.get("lazy"):
            self.say(f"loading {self.name} again, since it was resident before")
            if result.loads_usec:
                await self._watched(self.client.load(self.name, self._within(), self.timeout_sec))
            else:  # no load was seen yet: what it takes, and what it holds while it loads, is this one's to tell
                result = await self._load(entry, result)
        return result

    def _hear(self, signal: Signal) -> None:
        if len(signal.body) == 3:  # also where it is told before we know that this lease is ours
            self._ended[str(signal.body[0])] = str(signal.body[2])

    def _require_figures(self, entry: Entry) -> None:
        if entry.get("vram_resident_mib") is None:
            raise Failure(ExitCode.FAILURE, f"{self.name} cannot be loaded to be measured: {entry.get('error')}")
        if entry.get("used_mib") is None:
            why = "gpumand cannot tell how much it holds (no figures, or its processes are not known to be its own)"
            raise Failure(ExitCode.FAILURE, f"{self.name} cannot be measured: {why}; gpumanctl doctor may know more")

    async def _watched(self, call: Coroutine[Any, Any, T]) -> T:
        return await watched(self.client, self.name, call, self.options)

    def _within(self) -> dict[str, tuple[str, Any]]:
        return {"timeout_usec": ("t", to_usec(self.timeout_sec))}

    # -- loading -------------------------------------------------------------------------------------------------

    async def _load(self, entry: Entry, result: Calibration) -> Calibration:
        """Loaded under a lease until its memory is still; the lease is given back."""
        self.say(f"acquiring {self.name}")
        began_usec = time.time_ns() // 1000
        wish = {**self._within(), "lifetime": ("s", "connection"), "reason": ("s", REASON)}
        self._lease, grant = await self._watched(self.client.acquire(self.name, wish, self.timeout_sec))
        if entry.get("lazy"):
            self.say(
                f"{self.name} loads on a request of its own: send it one now, as large as they come{_where(grant)}"
            )
        await self._until(f"memory of {self.name} to appear", self._appeared)
        still = Stillness(AT_REST_SEC)
        await self._until(f"memory of {self.name} to be still", lambda status: self._is_still(still, status))
        steady_mib = held_mib(await self.client.status(), self.name) or 0
        took_usec = await self._load_usec(began_usec) if grant.get("loaded") else None
        lease, self._lease = self._lease, ""
        await self.client.release(lease)
        took = f", loaded in {usec(took_usec)}" if took_usec else ""
        self.say(f"{self.name} holds {mib(steady_mib)} at rest, {mib(still.peak_mib)} at most{took}")
        return replace(
            result,
            steady_mib=max(result.steady_mib, steady_mib),
            peak_mib=max(result.peak_mib, still.peak_mib),
            loads_usec=(*result.loads_usec, took_usec) if took_usec else result.loads_usec,
        )

    def _appeared(self, status: Entry) -> bool:
        return (held_mib(status, self.name) or 0) > SLACK_MIB

    def _is_still(self, still: Stillness, status: Entry) -> bool:
        held = held_mib(status, self.name)
        if held is None:
            return False
        self.show(f"{self.name} holds {mib(held)}, {mib(still.peak_mib)} at most so far")
        return still.feed(held, stamp_of(status), time.monotonic())

    async def _load_usec(self, since_usec: int) -> int | None:
        """How long the load itself took, without the wait for its turn."""
        wish = {"consumer": ("s", self.name), "kinds": ("as", ["load"]), "since_usec": ("t", since_usec)}
        loads = await self.client.history(wish)
        return int(loads[0]["duration_usec"]) if loads and loads[0].get("duration_usec") else None

    # -- unloading -----------------------------------------------------------------------------------------------

    async def _unload(self, method: str, steady_mib: int) -> Unload:
        """Evicted by one method; one that fails is a result too.

        One that leaves more behind than is declared fails by the daemon's word, and so does every unload route of a
        consumer whose residual_mib is still to be found out: what it freed is looked at all the same.
        """
        self.say(f"evicting {self.name} by {method}")
        try:
            wish = {**self._within(), "method": ("s", method)}
            outcome = await self._watched(self.client.evict(self.name, wish, self.timeout_sec))
        except BusError as error:
            if error.name not in REFUSED:
                raise
            self.say(f"that failed: {error.message}")
            if error.name != OWN + "EvictionFailed":
                return Unload(method, error=error.message)
            stayed_mib = await self._stayed_mib()
            freed_mib = max(0, steady_mib - (steady_mib if stayed_mib is None else stayed_mib))
            return Unload(method, 0, freed_mib, stayed_mib, error.message)
        stayed_mib = await self._stayed_mib()
        freed_mib, took_usec = int(outcome.get("freed_mib") or 0), int(outcome.get("duration_usec") or 0)
        self.say(f"{method} freed {mib(freed_mib)} in {usec(took_usec)}, {mib(stayed_mib)} stayed")
        return Unload(method, took_usec, freed_mib, stayed_mib)

    async def _stayed_mib(self) -> int | None:
        """What is held once nothing moves any more."""
        still = Stillness(SETTLE_SEC)
        await self._until("what stays to be still", lambda status: self._is_still(still, status))
        return held_mib(await self.client.status(), self.name)

    # -- waiting -------------------------------------------------------------------------------------------------

    async def _until(self, what: str, so: Callable[[Entry], bool]) -> None:
        """Poll until it is so. Raises Failure when the time is over, or the lease is."""
        try:
            async with asyncio.timeout(self.timeout_sec):
                while not so(await self.client.status()):
                    if why := self._ended.get(self._lease):
                        raise Failure(ExitCode.FAILURE, f"the lease has ended ({why}): nothing was measured")
                    await asyncio.sleep(POLL_SEC)
        except TimeoutError:
            line = f"waited {self.timeout_sec:g} s for {what}; --timeout waits longer"
            raise Failure(ExitCode.FAILURE, line) from None
        finally:
            self.show("")


def _where(grant: Entry) -> str:
    return f" ({grant['endpoint']})" if grant.get("endpoint") else ""


def held_mib(status: Entry, name: str) -> int | None:
    """What a consumer's processes hold by this status; None when unknown."""
    held = consumer_of(dict(status), name).get("used_mib")
    return None if held is None else int(held)


def stamp_of(status: Entry) -> int:
    """When the newest figures in it were read."""
    return max((int(one.get("sampled_usec") or 0) for one in status["devices"]), default=0)
