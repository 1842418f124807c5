"""Evictions that no request needs: manual ones by an administrator, and those of idle consumers."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from gpumand.arbiter.actions import NO_METHOD
from gpumand.arbiter.busy_probes import BusyProbes
from gpumand.arbiter.jobs import Jobs
from gpumand.arbiter.leases import Leases
from gpumand.arbiter.reconciler import Reconciler
from gpumand.arbiter.scheduler import Scheduler
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.timeouts import finished_within
from gpumand.arbiter.work_gate import WorkGate
from gpumand.domain import budget, host_ram, parking
from gpumand.domain.busyness import describe_work, is_busy
from gpumand.domain.consumer import STOPPING, EvictionMethod
from gpumand.domain.device import Devices, format_devices, parse_devices
from gpumand.domain.errors import Busy, EvictionFailed, InvalidArgs, ShuttingDown, TimedOut
from gpumand.domain.events import EvictionReport
from gpumand.domain.lease import LeaseEnd
from gpumand.domain.lease_wording import describe_lease_list, how_to_release
from gpumand.domain.planning import decide
from gpumand.domain.request import ManualResult
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState, Job, View
from gpumand.domain.wording import describe_devices

log = logging.getLogger(__name__)

CANCELLED = "its load was cancelled by a forced eviction. Request it again to load it"

BROKEN_OFF_SEC = 15.0
"""Seconds that a cancelled load gets to end, in addition to the stop of its unit."""


class ManualOperations:
    """Performs manual evictions and evicts idle consumers, with the same verification as evictions for a request."""

    def __init__(
        self,
        state: ArbiterState,
        reconciler: Reconciler,
        scheduler: Scheduler,
        jobs: Jobs,
        leases: Leases,
        gate: WorkGate,
        busy_probes: BusyProbes,
    ) -> None:
        self._state, self._reconciler, self._scheduler, self._jobs, self._leases = (
            state,
            reconciler,
            scheduler,
            jobs,
            leases,
        )
        self._gate, self._busy_probes = gate, busy_probes

    async def evict(self, name: str, *, force: bool, timeout_sec: float, method: str = "") -> ManualResult:
        """Evict a consumer.

        Args:
            name: the consumer.
            force: also when it is leased (its leases are revoked, even if the eviction fails), pinned or busy, or is
                being loaded (the load is cancelled, and the requests that wait for it are refused).
            timeout_sec: how long to wait until its devices are free of other jobs.
            method: the only method to use; "" = the consumer's methods in order.

        Raises:
            Busy, TimedOut, EvictionFailed, ShuttingDown, InvalidArgs (not one of the consumer's methods).
        """
        if method and method not in self._state.consumer(name).spec.evict:
            known = " and ".join(self._state.consumer(name).spec.evict) or "none"
            raise InvalidArgs(f"{name} cannot be evicted by {method}; its eviction methods: {known}")
        began = self._state.clock.monotonic()
        if broken_off := force and self._break_off_load(name):
            # It ends when its unit is stopped, which is part of this eviction and not a wait for other jobs.
            timeout_sec = max(timeout_sec, self._state.consumer(name).spec.stop_timeout_sec + BROKEN_OFF_SEC)
        device = format_devices(await self._devices_when_free(name, timeout_sec, force=force))
        if not self._holds_memory(self._state.consumer(name), method):
            return ManualResult(name, device, changed=broken_off)
        report = EvictionReport(name, device, 0, method, trigger="manual", why="requested manually")
        revoked: list[int] = []

        def confirm() -> None:
            revoked[:] = [self._check_and_revoke(name, force=force)]

        report = await self._evict(report, confirm, respect_busy=not force, forced=force)
        if report.error:
            raise EvictionFailed(f"{name}: {report.error}.{_describe_revoked(revoked)}{self._what_to_check(report)}")
        duration_usec = int((self._state.clock.monotonic() - began) * 1e6)
        return ManualResult(name, device, True, (name,), report.method, report.freed_mib, duration_usec)

    def _break_off_load(self, name: str) -> bool:
        """Cancel the job that loads the consumer. Returns whether there is one."""
        is_loading = any(job.consumer == name and job.evicting != (name,) for job in self._state.ledger.jobs.values())
        if is_loading:
            self._scheduler.break_off_load(name, CANCELLED)
        return is_loading

    @staticmethod
    def _what_to_check(report: EvictionReport) -> str:
        """Advice after a failed eviction; "" where no method was tried, since the error says why."""
        if report.deferred_by:
            return (
                " Requests wait for the device, so this was not waited for. Use the option 'force' to evict it anyway."
            )
        checks = {
            EvictionMethod.HTTP: "unload route",
            EvictionMethod.UNIT_STOP: "unit",
            EvictionMethod.CONTAINER: "container",
        }
        tried = [checks[method] for method in checks if method in report.tried]
        return f" Check the {' and the '.join(tried)}: gpumanctl show {report.consumer}." if tried else ""

    def _check_and_revoke(self, name: str, *, force: bool) -> int:
        """Check once more that it may be evicted, and revoke its leases. Raises Busy, EvictionFailed.

        They are revoked before the eviction, which must not happen under a lease. Returns how many there were.
        """
        consumer = self._state.consumer(name)
        self._check(self._state.view(), consumer, force=force)
        self._leases.end_all(lambda lease: lease.consumer == name, LeaseEnd.REVOKED)
        return consumer.leases

    async def _devices_when_free(self, name: str, timeout_sec: float, *, force: bool) -> Devices:
        """Wait until no job uses the consumer's devices. Raises Busy, TimedOut, ShuttingDown."""
        clock = self._state.clock
        deadline = clock.monotonic() + timeout_sec
        while True:
            # Everything is read again in each round: during the wait the consumer may have moved to other devices.
            consumer = self._state.consumer(name)
            devices = consumer.devices or (min(self._state.ledger.devices),)
            job, loading = self._job_on(devices), "" if force else self._consumer_loading_on(devices, excluding=name)
            if self._gate.refused:
                raise ShuttingDown(self._gate.refused)
            is_free = job is None and not loading and consumer.residency is not Residency.UNLOADING
            if is_free and not self._gate.held:
                return devices
            if clock.monotonic() >= deadline:
                blocker = self._describe_blocker(name, devices, job, loading)
                if timeout_sec > 0:
                    line = f"timed out after {timeout_sec:g} s waiting to evict {name}: {blocker}"
                    raise TimedOut(f"{line}. Wait longer with option 'timeout_usec'.")
                raise Busy(blocker)
            with self._scheduler.manual.reserve(devices):
                await finished_within(clock, self._scheduler.next_step(), deadline - clock.monotonic())

    def _describe_blocker(self, name: str, devices: Devices, job: Job | None, loading: str) -> str:
        if self._gate.held:
            return self._gate.held
        if job is not None:
            verb = "is" if len(devices) == 1 else "are"
            return f"{describe_devices(devices)} {verb} in use by the job for {job.consumer}"
        return f"{loading} is loading on {describe_devices(devices)}" if loading else f"{name} is being unloaded"

    def _job_on(self, devices: Devices) -> Job | None:
        """The job on any of these devices."""
        jobs = self._state.ledger.jobs
        return next((jobs[device] for device in devices if device in jobs), None)

    def _consumer_loading_on(self, devices: Devices, excluding: str) -> str:
        """The consumer that is loading on any of these devices; a load that gpumand did not start has no job."""
        loading = (one.name for one in self._state.view().loading if not set(devices).isdisjoint(one.devices))
        return next((name for name in loading if name != excluding), "")

    def _is_free(self, devices: Devices) -> bool:
        return self._job_on(devices) is None and not self._consumer_loading_on(devices, excluding="")

    def _holds_memory(self, consumer: ConsumerState, method: str) -> bool:
        if consumer.residency is Residency.PARKED and (not consumer.usable_methods or method == EvictionMethod.HTTP):
            return False  # parked: the unload route has already taken back everything it can
        if consumer.claimed or consumer.residency not in (Residency.UNLOADED, Residency.FAILED):
            return True
        # What stays after an unload by route is freed only by a stop, which has to be requested by name.
        left_mib = 0 if method in STOPPING else budget.tolerated_mib(consumer)
        return any((sample.held_by(consumer.name) or 0) > left_mib for sample in self._state.ledger.devices.values())

    @staticmethod
    def _check(view: View, consumer: ConsumerState, *, force: bool) -> None:
        if not consumer.spec.evict:
            raise EvictionFailed(f"{consumer.name} {NO_METHOD}: configure one to evict it")
        if force:
            return
        if consumer.leases:
            leased = describe_lease_list(view, consumer)
            advice = f"Use the option 'force' to revoke its leases, or {how_to_release(view, [consumer])}."
            raise Busy(f"{consumer.name} is leased ({leased}). {advice}")
        if consumer.pinned:
            raise Busy(f"{consumer.name} is pinned. Unpin it, or use the option 'force'.")
        if is_busy(consumer) or (consumer.direct_work and consumer.jobs):
            raise Busy(f"{consumer.name} is {describe_work(consumer)}. Use the option 'force' to evict it anyway.")
        if consumer.residency is Residency.LOADING:
            raise Busy(f"{consumer.name} is loading")

    async def _evict(
        self, report: EvictionReport, confirm: Callable[[], None], *, respect_busy: bool, forced: bool = False
    ) -> EvictionReport:
        """Evict on devices that are free at this moment.

        Args:
            report: the consumer, its devices, the trigger and the reason.
            confirm: called last before the eviction; raises if the consumer must not be evicted any more.
            respect_busy: do not evict while the consumer is busy.
            forced: park the consumer even if host RAM has no room.
        """
        name, devices = report.consumer, parse_devices(report.device)
        # The job is registered before the first await: from now on no other job can take these devices.
        self._state.ledger.begin_job(Job(devices, name, evicting=(name,)))
        try:
            await self._busy_probes.probe_unit(name, itself=respect_busy)
            await self._state.sample()
            # During these awaits it may have been leased or pinned, so the checks are repeated now.
            confirm()
            report = report if report.method or forced else self._choose_method(report)
            self._reserve_host_ram(report, devices)
        except BaseException:
            self._release_devices(devices)
            raise
        # From here on the eviction continues even if the client disconnects: stopped halfway, the consumer's state
        # would be unknown.
        return await self._scheduler.background.run_to_completion(self._carry_out(report, devices, respect_busy))

    async def _carry_out(self, report: EvictionReport, devices: Devices, respect_busy: bool) -> EvictionReport:
        try:
            return await self._jobs.evict(
                report,
                lambda: False,
                partial(self._why_not_now, report.consumer, respect_busy),
                respect_busy=respect_busy,
                gives_way=partial(self._gives_way, report, devices),
            )
        finally:
            self._release_devices(devices)

    async def _gives_way(self, report: EvictionReport, devices: Devices) -> int:
        """For how many jobs an unload that frees nothing is given up: not to keep devices from waiting requests."""
        view = self._state.view()
        # This is asked twice a second: requests for the same are decided once. Requests that all differ take a decision
        # each, up to the first one that may use a device of the eviction; at most MAX_WAITING of them wait.
        eligible = (decide(view, one).eligible_devices for one in {one.requirement for one in self._scheduler})
        may_go_on = report.trigger != "idle" and all(set(devices).isdisjoint(some) for some in eligible)
        return 0 if may_go_on else await self._busy_probes.jobs_behind_unload(report.consumer)

    def _release_devices(self, devices: Devices) -> None:
        self._jobs.end(devices)
        self._reconciler.reconcile_all()
        self._scheduler.step()

    def _choose_method(self, report: EvictionReport) -> EvictionReport:
        """Choose its methods in order, or the next one if host RAM has no room to park it. Raises EvictionFailed."""
        consumer = self._state.consumer(report.consumer)
        method = host_ram.eviction_method_now(self._state.view(), consumer)
        if method is None and consumer.usable_methods:
            useless = host_ram.cannot_be_freed(self._state.view(), consumer)
            why = host_ram.NOTHING_TO_PARK if useless else parking.NO_HOST_RAM
            raise EvictionFailed(f"{consumer.name}: {why}. Use the option 'force' to park it anyway.")
        if method is None:
            return report
        # A consumer that must not be parked must not be parked as a second attempt either.
        may_fall_back = method is consumer.usable_methods[0] and (
            method is EvictionMethod.HTTP or not consumer.spec.parks
        )
        return report if may_fall_back else replace(report, method=str(method))

    def _reserve_host_ram(self, report: EvictionReport, devices: Devices) -> None:
        """Reserve the host RAM that parking the consumer will take."""
        parks = host_ram.would_park(self._state.consumer(report.consumer)) and report.method in (
            "",
            EvictionMethod.HTTP,
        )
        job = self._state.ledger.jobs[devices[0]]
        self._state.ledger.replace_job(replace(job, parking=(report.consumer,) if parks else ()))

    async def _why_not_now(self, name: str, respect_busy: bool) -> str:
        """Called before each further method: the consumers in its unit may have become busy after the first one."""
        if respect_busy:
            return await self._busy_probes.busy_exemption(name)
        await self._busy_probes.probe_unit(name, itself=False)
        return ""

    def evict_idle(self) -> None:
        """Start the eviction of one consumer that has been idle for its ``idle_timeout_sec``, if there is one."""
        for consumer in list(self._state.ledger.consumers.values()) if self._gate.is_open else ():
            devices = consumer.devices
            if devices and self._is_idle_too_long(consumer) and self._is_free(devices):
                self._scheduler.background.spawn(self._evict_for_idleness(consumer.name, devices))
                # Only one per call: the job is registered when the task first runs, so a second task started now could
                # want the same devices. Other idle consumers follow at the next call.
                return

    def _is_idle_too_long(self, consumer: ConsumerState) -> bool:
        limit_sec = consumer.spec.idle_timeout_sec
        is_evictable = (
            consumer.residency is Residency.RESIDENT
            and not consumer.claimed
            and not consumer.pinned
            and consumer.spec.evict
        )
        if limit_sec <= 0 or not is_evictable or is_busy(consumer) or (consumer.direct_work and consumer.jobs):
            return False
        unused_sec = (self._state.clock.realtime_usec() - consumer.last_used_usec) / 1e6
        return self._state.clock.monotonic() - consumer.idle_since >= limit_sec and unused_sec >= limit_sec

    async def _evict_for_idleness(self, name: str, devices: Devices) -> None:
        def confirm() -> None:
            consumer = self._state.ledger.consumers.get(name)
            if consumer is None or not self._is_idle_too_long(consumer):
                raise Busy(f"{name} is no longer idle")

        if name not in self._state.ledger.consumers or not self._is_free(devices):
            return
        # The task starts later than ``evict_idle`` decided, so its conditions are checked again above.
        why = f"not used for {self._state.consumer(name).spec.idle_timeout_sec:g} s"
        report = EvictionReport(name, format_devices(devices), 0, "", trigger="idle", why=why)
        with contextlib.suppress(Busy):
            try:
                report = await self._evict(report, confirm, respect_busy=True)
            except EvictionFailed as failed:
                report = replace(report, error=failed.message)
            if report.error and name in self._state.ledger.consumers:
                self._state.ledger.update(name, idle_since=self._state.clock.monotonic())


def _describe_revoked(revoked: list[int]) -> str:
    """What a failed eviction has ended all the same, as a sentence; "" = nothing."""
    count = sum(revoked)
    return f" Its {'lease was' if count == 1 else f'{count} leases were'} revoked." if count else ""
