"""Measures a consumer for ``gpumanctl calibrate``: loads it under a lease, then unloads it by each of its methods.

All readings come from the daemon; nothing here reads a device. The lease is bound to the connection, so that it ends
with gpumanctl in any case. Other consumers are evicted only as any Acquire would evict them. A measurement without an
observed load is a failure: the memory of an idle server is not a footprint. What ran before is restored.
"""

from __future__ import annotations

import asyncio
import time
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from gpumand.bus.connection_errors import BusError
from gpumand.cli.client import Client
from gpumand.cli.commands.show import consumer_of
from gpumand.cli.durations import timeout_usec
from gpumand.cli.errors import ExitCode, Failure
from gpumand.cli.measurements import Calibration, Unload
from gpumand.cli.memory_watch import LoadWatch, Reading, StabilityDetector
from gpumand.cli.option_names import with_command_line_options
from gpumand.cli.options import GlobalOptions
from gpumand.cli.progress import with_progress
from gpumand.cli.render.format import mib, usec
from gpumand.cli.restoring import IsUnitActive, Restorer, unknown_unit
from gpumand.cli.while_command import running_command
from gpumand.domain.errors import ERROR_PREFIX, FREEDESKTOP_ERROR_PREFIX
from gpumand.domain.eviction_check import SLACK_MIB
from gpumand.domain.footprint import AT_REST_SEC
from gpumand.domain.load_evidence import IDLE_MIB

if TYPE_CHECKING:
    from gpumand.bus.connection import Signal

StatusEntry = Mapping[str, Any]
T = TypeVar("T")

__all__ = ["Calibration", "Calibrator", "StabilityDetector", "Unload"]


async def reported_work(entry: StatusEntry) -> bool:
    """Whether the daemon reports that the consumer works."""
    return bool(entry.get("busy"))


RESIDUAL_STABLE_SEC = 3.0
"""How long memory has to be stable after an unload to count as residual, in seconds."""

POLL_SEC = 0.25

NEW_READINGS = 2
"""Number of readings after the end of the command that are awaited before deciding whether a load was observed."""

RECORDED_ERRORS = (
    ERROR_PREFIX + "EvictionFailed",
    ERROR_PREFIX + "Busy",
    ERROR_PREFIX + "TimedOut",
    FREEDESKTOP_ERROR_PREFIX + "AccessDenied",
)
"""D-Bus errors of an eviction that are recorded as its result; the measurements made before them stay valid."""

REASON = "calibrate"


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
        command: a shell command that uses the consumer while its memory is measured; "" for none.
        is_working: whether the consumer works, given its entry in the status.
        is_unit_active: whether a unit runs; None when unknown.
    """

    client: Client
    name: str
    timeout_sec: float
    log: Callable[[str], None]
    show_progress: Callable[[str], None]
    options: GlobalOptions
    command: str = ""
    is_working: Callable[[StatusEntry], Awaitable[bool]] = reported_work
    is_unit_active: IsUnitActive = unknown_unit
    _ended: dict[str, str] = field(default_factory=dict, init=False)
    _lease: str = field(default="", init=False)
    _evicted: list[str] = field(default_factory=list, init=False)
    _load_seen: bool = field(default=False, init=False)

    async def run(self) -> Calibration:
        """Run all measurements, and restore what ran before, also after a failure.

        Raises:
            Failure: the consumer cannot be measured, no load was observed, a wait timed out, or the lease ended.
            BusError, BusLost: as the client raises them.
        """
        await self.client.listen_for_lease_ends(self._on_lease_ended)
        entry = consumer_of(await self.client.status(), self.name)
        self._require_readings(entry)
        restorer = Restorer(self.client, self.name, self.timeout_sec, self.log, self.is_unit_active)
        former = await restorer.former_state(entry)
        try:
            result = await self._measure(entry)
        except (Failure, BusError):
            await self._release()
            await restorer.restore(former, self._evicted)
            raise
        except asyncio.CancelledError:
            if former.ran or former.residency == "resident":
                self.log(f"{self.name} was running before. To load it again: gpumanctl load {self.name}")
            raise
        await restorer.restore(former, self._evicted)
        return result

    async def _measure(self, entry: StatusEntry) -> Calibration:
        result = Calibration(self.name, int(entry["vram_resident_mib"]))
        for method in tuple(entry.get("evict") or ()) or ("",):
            result = await self._load(entry, result)
            if method:
                result = replace(result, unloads=(*result.unloads, await self._unload(method, result.steady_mib)))
        was_resident = entry["residency"] == "resident"
        if was_resident and result.unloads and not result.loads_usec and not entry.get("lazy"):
            # It was resident at the first acquire, so this is the only load that can be measured.
            self.log(f"loading {self.name} again because it was resident before")
            result = await self._load(entry, result)
        if not self._load_seen:
            why = "it was loaded already, and no eviction freed its memory"
            advice = f"Use it meanwhile with --while CMD, or stop it first, then run calibrate {self.name} again"
            raise Failure(ExitCode.FAILURE, f"no load of {self.name} was seen: {why}. {advice}")
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

    # -- loading -------------------------------------------------------------------------------------------------

    async def _load(self, entry: StatusEntry, result: Calibration) -> Calibration:
        """Load it under a lease, wait until its memory is stable and it is idle, and release the lease."""
        self.log(f"acquiring {self.name}")
        began_usec = time.time_ns() // 1000
        call_options = {**timeout_usec(self.timeout_sec), "lifetime": ("s", "connection"), "reason": ("s", REASON)}
        self._lease, grant = await self._call(self.client.acquire(self.name, call_options, self.timeout_sec))
        self._evicted += grant.get("evicted") or ()
        watch = LoadWatch()
        stability = await self._wait_until_at_rest(entry, watch, grant)
        self._load_seen = self._load_seen or bool(grant.get("loaded") or watch.load_seen or watch.worked or watch.used)
        steady_mib = held_mib(await self.client.status(), self.name) or 0
        took_usec = await self._load_usec(began_usec) if grant.get("loaded") else None
        await self._release()
        took = f", loaded in {usec(took_usec)}" if took_usec else ""
        peak_mib = max(stability.peak_mib, watch.peak_mib)
        self.log(f"{self.name} holds {mib(steady_mib)} at rest, peak {mib(peak_mib)}{took}")
        return replace(
            result,
            steady_mib=max(result.steady_mib, steady_mib),
            peak_mib=max(result.peak_mib, peak_mib),
            loads_usec=(*result.loads_usec, took_usec) if took_usec else result.loads_usec,
        )

    async def _wait_until_at_rest(self, entry: StatusEntry, watch: LoadWatch, grant: StatusEntry) -> StabilityDetector:
        """Wait until its memory is stable and it is idle, after the command of the user if there is one."""
        if entry.get("lazy"):
            await self._see_lazy_load(watch, grant)
        else:
            await self._wait_until(f"{self.name} to allocate memory", self._has_memory)
            if self.command:
                await self._run_command(watch, grant)
        stability = StabilityDetector(AT_REST_SEC)
        await self._wait_until(
            f"the memory of {self.name} to be stable", lambda reading: self._is_stable(stability, reading, watch)
        )
        return stability

    async def _release(self) -> None:
        lease, self._lease = self._lease, ""
        if lease and lease not in self._ended:
            await self.client.release(lease)

    async def _see_lazy_load(self, watch: LoadWatch, grant: StatusEntry) -> None:
        """Wait until a consumer that loads with its first request has loaded its model.

        Raises:
            Failure: no load was observed.
        """
        stability = StabilityDetector(AT_REST_SEC)
        await self._wait_for_load(watch, lambda reading: self._is_at_base(stability, reading, watch))
        if self.command:
            await self._run_command(watch, grant)
            if not watch.load_seen:
                raise self._no_load(watch, "while CMD ran")
            return
        self.log(
            f"{self.name} loads its model on the first request: send it a request now, as large as any it will get"
            f"{_endpoint_suffix(grant)}"
        )
        await self._wait_for_load(watch, lambda reading: self._shows_load(watch, reading))

    async def _wait_for_load(self, watch: LoadWatch, condition: Callable[[Reading], bool]) -> None:
        try:
            async with asyncio.timeout(self.timeout_sec):
                await self._poll(condition)
        except TimeoutError:
            if watch.peak_mib <= SLACK_MIB:
                raise self._timed_out(f"{self.name} to allocate memory") from None
            raise self._no_load(watch, f"within {self.timeout_sec:g} s") from None

    def _no_load(self, watch: LoadWatch, when: str) -> Failure:
        held = f"it held at most {mib(watch.peak_mib)}, which a server without a model may hold"
        if watch.base_mib is not None and watch.base_mib > IDLE_MIB:
            held = f"it held {mib(watch.base_mib)} before, and reported no work"
        advice = "Send it a request while calibrate waits, or give the command that does: --while CMD"
        return Failure(ExitCode.FAILURE, f"no load of {self.name} was seen {when}: {held}. {advice}")

    async def _run_command(self, watch: LoadWatch, grant: StatusEntry) -> None:
        """Run the command that uses the consumer, and watch the memory meanwhile.

        Raises:
            Failure: the command failed, or did not end in time.
        """
        self.log(f"running {self.command}")
        variables = {
            "GPUMAND_LEASE": self._lease,
            "GPUMAND_CONSUMER": self.name,
            "GPUMAND_ENDPOINT": str(grant.get("endpoint") or ""),
        }
        async with running_command(self.command, variables) as process:
            await self._wait_until("CMD to end", lambda reading: self._has_ended(process, reading, watch))
        if process.returncode:
            raise Failure(ExitCode.FAILURE, f"CMD failed with exit status {process.returncode}; nothing was measured")
        watch.used = True
        await self._wait_until("new VRAM readings", self._later_readings(watch))

    def _later_readings(self, watch: LoadWatch) -> Callable[[Reading], bool]:
        """A condition that holds after two new readings: the first may have begun before the command ended."""
        times: set[int] = set()

        def are_there(reading: Reading) -> bool:
            watch.add(reading)
            times.add(reading.read_usec)
            return len(times) > NEW_READINGS

        return are_there

    def _has_memory(self, reading: Reading) -> bool:
        return (reading.held_mib or 0) > SLACK_MIB

    def _has_ended(self, process: Process, reading: Reading, watch: LoadWatch) -> bool:
        watch.add(reading)
        self._show(reading, watch.peak_mib)
        return process.returncode is not None

    def _is_at_base(self, stability: StabilityDetector, reading: Reading, watch: LoadWatch) -> bool:
        is_stable = self._is_stable(stability, reading, watch)
        if is_stable:
            watch.base_mib = reading.held_mib
        return is_stable or watch.load_seen

    def _shows_load(self, watch: LoadWatch, reading: Reading) -> bool:
        watch.add(reading)
        self._show(reading, watch.peak_mib)
        return watch.load_seen

    def _is_stable(self, stability: StabilityDetector, reading: Reading, watch: LoadWatch | None = None) -> bool:
        if watch is not None:
            watch.add(reading)
        if reading.held_mib is None:
            return False
        self._show(reading, stability.peak_mib)
        return stability.add(reading.held_mib, reading.read_usec, time.monotonic(), working=reading.working)

    def _show(self, reading: Reading, peak_mib: int) -> None:
        if reading.held_mib is not None:
            works = " and works" if reading.working else ""
            self.show_progress(f"{self.name} holds {mib(reading.held_mib)}{works}, peak so far {mib(peak_mib)}")

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
        try:
            outcome = await self._evict_when_idle(method)
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

    async def _evict_when_idle(self, method: str) -> StatusEntry:
        """Evict the consumer once it reports no work; repeated when it begins to work in between."""
        call_options = {**timeout_usec(self.timeout_sec), "method": ("s", method)}
        deadline = time.monotonic() + self.timeout_sec
        while True:
            await self._wait_until(f"{self.name} to finish its work", lambda reading: not reading.working)
            self.log(f"evicting {self.name} by {method}")
            try:
                return await self._call(self.client.evict(self.name, call_options, self.timeout_sec))
            except BusError as error:
                is_over = time.monotonic() >= deadline
                if error.name != ERROR_PREFIX + "Busy" or is_over or not (await self._read()).working:
                    raise

    async def _residual_mib(self) -> int | None:
        """Memory that is still held once it is stable, in MiB; None when unknown."""
        stability = StabilityDetector(RESIDUAL_STABLE_SEC)
        await self._wait_until("the remaining memory to be stable", lambda reading: self._is_stable(stability, reading))
        return held_mib(await self.client.status(), self.name)

    # -- waiting -------------------------------------------------------------------------------------------------

    async def _wait_until(self, what: str, condition: Callable[[Reading], bool]) -> None:
        """Poll the status until the condition holds.

        Raises:
            Failure: after ``timeout_sec``, or when the lease has ended.
        """
        try:
            async with asyncio.timeout(self.timeout_sec):
                await self._poll(condition)
        except TimeoutError:
            raise self._timed_out(what) from None

    def _timed_out(self, what: str) -> Failure:
        line = f"timed out after {self.timeout_sec:g} s waiting for {what}. Wait longer with --timeout"
        return Failure(ExitCode.FAILURE, line)

    async def _poll(self, condition: Callable[[Reading], bool]) -> None:
        """Read until the condition holds. Raises Failure when the lease has ended."""
        try:
            while not condition(await self._read()):
                if why := self._ended.get(self._lease):
                    raise Failure(ExitCode.FAILURE, f"the lease has ended ({why}); nothing was measured")
                await asyncio.sleep(POLL_SEC)
        finally:
            self.show_progress("")

    async def _read(self) -> Reading:
        status = await self.client.status()
        entry = consumer_of(status, self.name)
        held = entry.get("used_mib")
        working = await self.is_working(entry)
        return Reading(None if held is None else int(held), newest_reading_usec(status), working)


def _endpoint_suffix(grant: StatusEntry) -> str:
    return f" ({grant['endpoint']})" if grant.get("endpoint") else ""


def held_mib(status: StatusEntry, name: str) -> int | None:
    """Memory that a consumer's processes hold according to this status, in MiB; None when unknown."""
    held = consumer_of(dict(status), name).get("used_mib")
    return None if held is None else int(held)


def newest_reading_usec(status: StatusEntry) -> int:
    """Time of the newest VRAM reading in the status, in microseconds; 0 when there is none."""
    return max((int(one.get("sampled_usec") or 0) for one in status["devices"]), default=0)
