"""Measures a consumer for ``gpumanctl calibrate``: loads it under a lease, then unloads it by each of its methods.

All readings come from the daemon; nothing here reads a device. The lease is bound to the connection, so that it ends
with gpumanctl in any case. Other consumers are evicted only as any Acquire would evict them.
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
from gpumand.cli.option_names import with_command_line_options
from gpumand.cli.options import GlobalOptions
from gpumand.cli.progress import with_progress
from gpumand.cli.render.format import mib, usec
from gpumand.domain.errors import ERROR_PREFIX, FREEDESKTOP_ERROR_PREFIX
from gpumand.domain.eviction_check import SLACK_MIB
from gpumand.domain.footprint import AT_REST_SEC

if TYPE_CHECKING:
    from gpumand.bus.connection import Signal

StatusEntry = Mapping[str, Any]
T = TypeVar("T")

RESIDUAL_STABLE_SEC = 3.0
"""How long memory has to be stable after an unload to count as residual, in seconds."""

POLL_SEC = 0.25

RECORDED_ERRORS = (
    ERROR_PREFIX + "EvictionFailed",
    ERROR_PREFIX + "Busy",
    ERROR_PREFIX + "TimedOut",
    FREEDESKTOP_ERROR_PREFIX + "AccessDenied",
)
"""D-Bus errors of an eviction that are recorded as its result; the measurements made before them stay valid."""

REASON = "calibrate"


@dataclass(frozen=True, slots=True)
class Unload:
    """The result of one eviction method.

    Attributes:
        method: the method, as in the configuration key ``evict``.
        duration_usec: time until the driver reported the memory free, in microseconds.
        freed_mib: memory that was freed, in MiB.
        residual_mib: memory that was still held some seconds later, in MiB; None when unknown.
        error: the daemon's message when the eviction failed; "" when it succeeded.
    """

    method: str
    duration_usec: int = 0
    freed_mib: int = 0
    residual_mib: int | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Calibration:
    """The measurements of one consumer.

    Attributes:
        consumer: its name.
        declared_mib: its configured footprint in MiB.
        steady_mib: memory that it holds at rest, in MiB; the largest value of several loads.
        peak_mib: the most memory that it held, in MiB.
        loads_usec: duration of each load, in microseconds.
        unloads: the result of each eviction method.
    """

    consumer: str
    declared_mib: int
    steady_mib: int = 0
    peak_mib: int = 0
    loads_usec: tuple[int, ...] = ()
    unloads: tuple[Unload, ...] = ()


@dataclass
class StabilityDetector:
    """Detects that the memory of a consumer has stopped changing.

    Attributes:
        stable_sec: how long it must not change, in seconds.
        peak_mib: the largest value so far.
    """

    stable_sec: float
    peak_mib: int = 0
    _reference_mib: int = -1
    _since_sec: float = 0.0
    _read_usec: int = -1

    def add(self, used_mib: int, read_usec: int, now_sec: float) -> bool:
        """Add a reading and return whether the memory has been stable for long enough.

        Args:
            used_mib: memory that the consumer holds.
            read_usec: time stamp of the reading.
            now_sec: current time of the monotonic clock.
        """
        self.peak_mib = max(self.peak_mib, used_mib)
        if abs(used_mib - self._reference_mib) > SLACK_MIB or self._reference_mib < 0:
            self._reference_mib, self._since_sec, self._read_usec = used_mib, now_sec, read_usec
        # Polling the same reading again proves nothing: a newer one has to confirm the value.
        return read_usec != self._read_usec and now_sec - self._since_sec >= self.stable_sec


@dataclass
class Calibrator:
    """Measures one consumer.

    Attributes:
        client: a connection to the daemon.
        name: the consumer's name.
        timeout_sec: limit of each wait in seconds: for the grant, for its memory to appear, for it to be stable.
        log: prints a line about the current step.
        show_progress: shows a value that changes; "" clears it.
        options: the shared options, for the progress of calls that wait.
    """

    client: Client
    name: str
    timeout_sec: float
    log: Callable[[str], None]
    show_progress: Callable[[str], None]
    options: GlobalOptions
    _ended: dict[str, str] = field(default_factory=dict, init=False)
    _lease: str = field(default="", init=False)

    async def run(self) -> Calibration:
        """Run all measurements.

        Raises:
            Failure: the consumer cannot be measured, a wait timed out, or the lease ended.
            BusError, BusLost: as the client raises them.
        """
        await self.client.listen_for_lease_ends(self._on_lease_ended)
        entry = consumer_of(await self.client.status(), self.name)
        self._require_readings(entry)
        was_resident = entry["residency"] == "resident"
        result = Calibration(self.name, int(entry["vram_resident_mib"]))
        for method in tuple(entry.get("evict") or ()) or ("",):
            result = await self._load(entry, result)
            if method:
                result = replace(result, unloads=(*result.unloads, await self._unload(method, result.steady_mib)))
        if was_resident and result.unloads and not entry.get("lazy"):
            self.log(f"loading {self.name} again because it was resident before")
            if result.loads_usec:
                await self._call(self.client.load(self.name, self._timeout_option(), self.timeout_sec))
            else:  # it was resident at the first acquire, so this is the only load that can be measured
                result = await self._load(entry, result)
        return result

    def _on_lease_ended(self, signal: Signal) -> None:
        # Recorded for every lease: the signal may arrive before the reply of Acquire with the id of our lease.
        if len(signal.body) == 3:
            self._ended[str(signal.body[0])] = str(signal.body[2])

    def _require_readings(self, entry: StatusEntry) -> None:
        if entry.get("vram_resident_mib") is None:
            raise Failure(ExitCode.FAILURE, f"cannot measure {self.name}: it cannot be loaded: {entry.get('error')}")
        if entry.get("used_mib") is None:
            why = "its memory use is unknown (no VRAM readings, or its processes cannot be identified)"
            raise Failure(ExitCode.FAILURE, f"cannot measure {self.name}: {why}. Check with: gpumanctl doctor")

    async def _call(self, call: Coroutine[Any, Any, T]) -> T:
        return await with_progress(self.client, self.name, call, self.options)

    def _timeout_option(self) -> dict[str, tuple[str, Any]]:
        return {"timeout_usec": ("t", to_usec(self.timeout_sec))}

    # -- loading -------------------------------------------------------------------------------------------------

    async def _load(self, entry: StatusEntry, result: Calibration) -> Calibration:
        """Load it under a lease, wait until its memory is stable, and release the lease."""
        self.log(f"acquiring {self.name}")
        began_usec = time.time_ns() // 1000
        call_options = {**self._timeout_option(), "lifetime": ("s", "connection"), "reason": ("s", REASON)}
        self._lease, grant = await self._call(self.client.acquire(self.name, call_options, self.timeout_sec))
        if entry.get("lazy"):
            self.log(
                f"{self.name} loads its model on the first request: send it a request now, as large as any it will get"
                f"{_endpoint_suffix(grant)}"
            )
        await self._wait_until(f"{self.name} to allocate memory", self._has_memory)
        stability = StabilityDetector(AT_REST_SEC)
        await self._wait_until(
            f"the memory of {self.name} to be stable", lambda status: self._is_stable(stability, status)
        )
        steady_mib = held_mib(await self.client.status(), self.name) or 0
        took_usec = await self._load_usec(began_usec) if grant.get("loaded") else None
        lease, self._lease = self._lease, ""
        await self.client.release(lease)
        took = f", loaded in {usec(took_usec)}" if took_usec else ""
        self.log(f"{self.name} holds {mib(steady_mib)} at rest, peak {mib(stability.peak_mib)}{took}")
        return replace(
            result,
            steady_mib=max(result.steady_mib, steady_mib),
            peak_mib=max(result.peak_mib, stability.peak_mib),
            loads_usec=(*result.loads_usec, took_usec) if took_usec else result.loads_usec,
        )

    def _has_memory(self, status: StatusEntry) -> bool:
        return (held_mib(status, self.name) or 0) > SLACK_MIB

    def _is_stable(self, stability: StabilityDetector, status: StatusEntry) -> bool:
        held = held_mib(status, self.name)
        if held is None:
            return False
        self.show_progress(f"{self.name} holds {mib(held)}, peak so far {mib(stability.peak_mib)}")
        return stability.add(held, newest_reading_usec(status), time.monotonic())

    async def _load_usec(self, since_usec: int) -> int | None:
        """Duration of the load without the time in the queue, in microseconds; None when it is not in the history."""
        call_options = {"consumer": ("s", self.name), "kinds": ("as", ["load"]), "since_usec": ("t", since_usec)}
        loads = await self.client.history(call_options)
        return int(loads[0]["duration_usec"]) if loads and loads[0].get("duration_usec") else None

    # -- unloading -----------------------------------------------------------------------------------------------

    async def _unload(self, method: str, steady_mib: int) -> Unload:
        """Evict the consumer by one method; a failed eviction is a result too.

        The daemon reports a failure when more memory stays than is declared. That is so for every unload route of a
        consumer whose residual_mib is not configured yet, therefore the freed memory is measured after a failure too.
        """
        self.log(f"evicting {self.name} by {method}")
        try:
            call_options = {**self._timeout_option(), "method": ("s", method)}
            outcome = await self._call(self.client.evict(self.name, call_options, self.timeout_sec))
        except BusError as error:
            if error.name not in RECORDED_ERRORS:
                raise
            message = with_command_line_options(error.message)
            self.log(f"the eviction failed: {message}")
            if error.name != ERROR_PREFIX + "EvictionFailed":
                return Unload(method, error=message)
            residual_mib = await self._residual_mib()
            freed_mib = max(0, steady_mib - (steady_mib if residual_mib is None else residual_mib))
            return Unload(method, 0, freed_mib, residual_mib, message)
        residual_mib = await self._residual_mib()
        freed_mib, took_usec = int(outcome.get("freed_mib") or 0), int(outcome.get("duration_usec") or 0)
        self.log(f"{method} freed {mib(freed_mib)} in {usec(took_usec)}, {mib(residual_mib)} remained")
        return Unload(method, took_usec, freed_mib, residual_mib)

    async def _residual_mib(self) -> int | None:
        """Memory that is still held once it is stable, in MiB; None when unknown."""
        stability = StabilityDetector(RESIDUAL_STABLE_SEC)
        await self._wait_until("the remaining memory to be stable", lambda status: self._is_stable(stability, status))
        return held_mib(await self.client.status(), self.name)

    # -- waiting -------------------------------------------------------------------------------------------------

    async def _wait_until(self, what: str, condition: Callable[[StatusEntry], bool]) -> None:
        """Poll the status until the condition holds.

        Raises:
            Failure: after ``timeout_sec``, or when the lease has ended.
        """
        try:
            async with asyncio.timeout(self.timeout_sec):
                while not condition(await self.client.status()):
                    if why := self._ended.get(self._lease):
                        raise Failure(ExitCode.FAILURE, f"the lease has ended ({why}); nothing was measured")
                    await asyncio.sleep(POLL_SEC)
        except TimeoutError:
            line = f"timed out after {self.timeout_sec:g} s waiting for {what}. Wait longer with --timeout"
            raise Failure(ExitCode.FAILURE, line) from None
        finally:
            self.show_progress("")


def _endpoint_suffix(grant: StatusEntry) -> str:
    return f" ({grant['endpoint']})" if grant.get("endpoint") else ""


def held_mib(status: StatusEntry, name: str) -> int | None:
    """Memory that a consumer's processes hold according to this status, in MiB; None when unknown."""
    held = consumer_of(dict(status), name).get("used_mib")
    return None if held is None else int(held)


def newest_reading_usec(status: StatusEntry) -> int:
    """Time of the newest VRAM reading in the status, in microseconds; 0 when there is none."""
    return max((int(one.get("sampled_usec") or 0) for one in status["devices"]), default=0)
