"""Calls to systemd (org.freedesktop.systemd1), with its errors as UnitFailed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection, Container
from dataclasses import dataclass
from typing import Any

from gpumand.bus.connection import BusConnection, BusError, BusLost, Signal, Subscription
from gpumand.bus.names import (
    DBUS,
    DBUS_PATH,
    PROPERTIES,
    SYSTEMD,
    SYSTEMD_MANAGER,
    SYSTEMD_PATH,
    SYSTEMD_SERVICE,
    SYSTEMD_UNIT,
)
from gpumand.bus.object_paths import unescape_label
from gpumand.domain.consumer import UnitActivity, UnitState
from gpumand.ports import UnitFailed
from gpumand.service_manager.failures import FREEDESKTOP_ERROR, unit_failed
from gpumand.service_manager.unit_names import is_service, require_unit_name

log = logging.getLogger(__name__)

CALL_TIMEOUT_SEC = 15.0
REEXEC_GRACE_SEC = 3.0
"""How long systemd may be missing from the bus (daemon-reexec after an upgrade) before it counts as unavailable."""
RETRY_SEC = 0.2
MAX_COMMANDS, MAX_WORDS = 16, 256
"""Maximum number of commands of a unit, and of words of each, that are read."""
MAX_LISTED = 256
"""Maximum number of units in one call. systemd does nothing else while it loads their files."""
MANAGER = (SYSTEMD_PATH, SYSTEMD_MANAGER)
NO_JOB = "/"
UNIT_PATH_PREFIX = SYSTEMD_PATH + "/unit/"
RUNNING = frozenset({"active", "reloading", "maintenance", "refreshing"})
ACTIVITIES = frozenset(activity.value for activity in UnitActivity)


@dataclass(frozen=True, slots=True)
class Unit:
    """The properties of a unit that gpumand uses.

    Attributes:
        state: the state as the arbiter uses it.
        path: object path; for an alias, that of the unit it stands for.
        job_path: object path of the unit's queued or running job; "/" if there is none.
        triggered_by: units that can start it (sockets, timers, paths).
        started_usec: start of its last run, in CLOCK_REALTIME microseconds; 0 if it never ran.
    """

    state: UnitState
    path: str
    job_path: str
    triggered_by: tuple[str, ...]
    started_usec: int = 0


@dataclass(frozen=True, slots=True)
class ListedUnit:
    """A row of ListUnitsByNames.

    Attributes:
        unit: name of the unit.
        activity: its ActiveState.
        load_state: its LoadState.
        path: its object path.
        job_path: object path of its queued or running job; "/" if there is none.
    """

    unit: str
    activity: UnitActivity
    load_state: str
    path: str
    job_path: str

    def state_at_rest(self) -> UnitState | None:
        """The state of a unit that is inactive and has no job; None for any other, of which more must be read."""
        if self.activity is not UnitActivity.INACTIVE or self.job_path != NO_JOB:
            return None
        return UnitState(self.unit, self.activity, self.load_state)


class Systemd1:
    """A client for systemd's manager object on one bus."""

    def __init__(self, bus: BusConnection) -> None:
        self._bus = bus
        self._was_reachable = False

    async def subscribe(self) -> None:
        """Ask systemd to send signals, which it does only while a client is subscribed. Never raises."""
        try:
            await self._call(MANAGER, "Subscribe")
        except BusError as error:
            # Repeated on purpose after a restart of systemd. If systemd still has the subscription, that is an error.
            if not error.name.endswith(".AlreadySubscribed"):
                log.info("cannot subscribe to systemd: %s", error.message)
        except BusLost as error:
            log.info("cannot subscribe to systemd: %s", error)

    async def listen(self, member: str, callback: Callable[[Signal], None]) -> Subscription:
        """Subscribe to a signal of the manager. Raises BusError, BusLost."""
        return await self._bus.subscribe(
            sender=SYSTEMD, path=SYSTEMD_PATH, interface=SYSTEMD_MANAGER, member=member, callback=callback
        )

    async def listen_to_owner(self, callback: Callable[[str], None]) -> Subscription:
        """Subscribe to changes of the owner of systemd's bus name; "" means no owner. Raises BusError, BusLost."""
        return await self._bus.subscribe(
            sender=DBUS,
            path=DBUS_PATH,
            interface=DBUS,
            member="NameOwnerChanged",
            arg0=SYSTEMD,
            callback=lambda signal: callback(str(signal.body[2])),
        )

    async def listen_to_unit(self, path: str, callback: Callable[[Signal], None]) -> Subscription:
        """Subscribe to property changes of a unit; the path stays valid when the unit is unloaded and loaded again."""
        return await self._bus.subscribe(
            sender=SYSTEMD,
            path=path,
            interface=PROPERTIES,
            member="PropertiesChanged",
            arg0=SYSTEMD_UNIT,
            callback=callback,
        )

    async def listen_to_all_units(
        self, callback: Callable[[Signal], None], wanted_paths: Container[str]
    ) -> Subscription:
        """Subscribe to property changes of all units by one match rule. Raises BusError, BusLost.

        Args:
            callback: called for each change of a wanted unit.
            wanted_paths: object paths of the units whose changes are wanted, at any time; those of all others are
                dropped before they are parsed.
        """
        self._bus.drop_signals(UNIT_PATH_PREFIX, wanted_paths)
        try:
            return await self._bus.subscribe(
                sender=SYSTEMD,
                path_namespace=UNIT_PATH_PREFIX.removesuffix("/"),
                interface=PROPERTIES,
                member="PropertiesChanged",
                arg0=SYSTEMD_UNIT,
                callback=callback,
            )
        except BaseException:
            self._bus.drop_signals("", ())
            raise

    async def stop_listening_to_all_units(self, subscription: Subscription) -> None:
        """Undo ``listen_to_all_units``."""
        await subscription.cancel()
        self._bus.drop_signals("", ())

    async def unit_path(self, unit: str) -> str:
        """Return the object path of a unit; systemd loads the unit if necessary. Raises UnitFailed."""
        require_unit_name(unit)
        return str((await self._call_for_unit(unit, "ask about", "LoadUnit", "s", (unit,)))[0])

    async def read(self, unit: str) -> Unit:
        """Read the current properties of a unit; one that does not exist is inactive. Raises UnitFailed."""
        try:
            path = await self.unit_path(unit)
        except UnitFailed as error:
            if error.reason != "not-found":
                raise
            return Unit(UnitState(unit, UnitActivity.INACTIVE, "not-found"), "", NO_JOB, ())
        # One GetAll instead of several Gets, so that all properties describe the same moment.
        (properties,) = await self._call_for_unit(unit, "ask about", "GetAll", "s", (SYSTEMD_UNIT,), (path, PROPERTIES))
        # Read the result after the state: read first, the result of a unit that fails in between would be "success".
        result = await self._service_property(path, "Result") if is_service(unit) else ""
        return _unit(unit, path, properties, str(result or ""))

    async def list_units(self, units: Collection[str]) -> dict[str, ListedUnit]:
        """List units by their names in one call; systemd loads them if necessary.

        A name that is missing in the result must be asked about by itself: it is an alias, or systemd refuses the whole
        list because of one name (a template without an instance), or does not know the method (before version 230).

        Args:
            units: names of units, at most MAX_LISTED.

        Raises:
            UnitFailed: systemd does not answer.
        """
        try:
            answer = await self._call_for_unit(
                f"{len(units)} units", "ask about", "ListUnitsByNames", "as", (list(units),)
            )
        except UnitFailed as error:
            if error.reason == "unavailable" and not _is_unknown_method(error.__cause__):
                raise
            log.debug("systemd cannot list %d units at once: %s", len(units), error)
            return {}
        rows = [_listed_unit(row) for row in answer[0]]
        # An alias is listed by the name of the unit that it stands for.
        return {row.unit: row for row in rows if row.unit in units}

    async def time_limit_sec(self, unit: str, path: str, name: str) -> float | None:
        """Return TimeoutStartUSec or TimeoutStopUSec of a service in seconds; None if it is unlimited or unknown."""
        limit_usec = await self._service_property(path, name) if is_service(unit) else None
        return limit_usec / 1e6 if isinstance(limit_usec, int) and 0 < limit_usec < 2**63 else None

    async def restarts(self, unit: str, path: str) -> int:
        """Return how often systemd has restarted a service by itself (NRestarts); 0 if that is unknown."""
        restarts = await self._service_property(path, "NRestarts") if path and is_service(unit) else 0
        return restarts if isinstance(restarts, int) else 0

    async def start_commands(self, unit: str) -> tuple[tuple[str, ...], ...]:
        """Return the command lines of ExecStart= of a service; () if they are unknown. Raises UnitFailed."""
        if not is_service(unit):
            return ()
        rows = await self._service_property(await self.unit_path(unit), "ExecStart")
        lines = [row[1] for row in rows[:MAX_COMMANDS] if len(row) > 1] if isinstance(rows, list) else []
        return tuple(tuple(map(str, words[:MAX_WORDS])) for words in lines if isinstance(words, list))

    async def start(self, unit: str) -> str:
        """Queue a start job and return its object path. Raises UnitFailed."""
        return str((await self._call_for_unit(unit, "start", "StartUnit", "ss", (unit, "replace")))[0])

    async def stop(self, unit: str) -> str:
        """Queue a stop job and return its object path. Raises UnitFailed."""
        return str((await self._call_for_unit(unit, "stop", "StopUnit", "ss", (unit, "replace")))[0])

    async def unit_of_pid(self, pid: int) -> str:
        """Return the unit that a process runs in; "" if it is unknown for any reason."""
        # systemd takes pid 0 for the caller itself, and no pid is larger than 2**31 - 1.
        if not 0 < pid < 2**31:
            return ""
        try:
            (path,) = await self._call(MANAGER, "GetUnitByPID", "u", (pid,))
        except (BusError, BusLost):
            return ""
        return _unit_name_from_path(str(path))

    async def _service_property(self, path: str, name: str) -> Any:
        with contextlib.suppress(BusError, BusLost):
            return (await self._call((path, PROPERTIES), "Get", "ss", (SYSTEMD_SERVICE, name)))[0]
        return None

    async def _call_for_unit(
        self,
        unit: str,
        verb: str,
        member: str,
        signature: str,
        body: tuple[Any, ...],
        target: tuple[str, str] = MANAGER,
    ) -> tuple[Any, ...]:
        """Call systemd for a unit, and retry while systemd restarts. Raises UnitFailed."""
        # No grace on a bus where systemd never answered: there it is missing, not restarting.
        give_up_at = time.monotonic() + (REEXEC_GRACE_SEC if self._was_reachable else 0.0)
        while True:
            try:
                return await self._call(target, member, signature, body)
            except BusError as error:
                failure = unit_failed(unit, verb, error)
                if failure.reason != "unavailable" or time.monotonic() > give_up_at:
                    raise failure from error
            except BusLost as error:
                raise UnitFailed(f"cannot {verb} {unit}: {error}", "unavailable") from error
            await asyncio.sleep(RETRY_SEC)

    async def _call(
        self, target: tuple[str, str], member: str, signature: str = "", body: tuple[Any, ...] = ()
    ) -> tuple[Any, ...]:
        path, interface = target
        answer = await self._bus.call(SYSTEMD, path, interface, member, signature, body, timeout_sec=CALL_TIMEOUT_SEC)
        self._was_reachable = True
        return answer


def _listed_unit(row: Any) -> ListedUnit:
    """Parse name, description, LoadState, ActiveState, SubState, followed unit, path, job id, job type and job path."""
    unit, _, load_state, active_state, _, _, path, _, _, job_path = row
    return ListedUnit(unit, _activity(active_state), load_state, path, job_path)


def _is_unknown_method(error: BaseException | None) -> bool:
    return isinstance(error, BusError) and error.name == FREEDESKTOP_ERROR + "UnknownMethod"


def _unit(unit: str, path: str, properties: dict[str, Any], result: str) -> Unit:
    job = properties.get("Job")
    state = UnitState(
        unit=unit,
        activity=_activity(str(properties.get("ActiveState", ""))),
        load_state=str(properties.get("LoadState", "")),
        result=result,
        invocation_id=bytes(properties.get("InvocationID", b"")).hex(),
        active_since=_seconds(properties.get("ActiveEnterTimestampMonotonic")),
    )
    return Unit(
        state=state,
        path=path,
        job_path=str(job[1]) if isinstance(job, list) and len(job) == 2 else NO_JOB,
        triggered_by=tuple(str(name) for name in properties.get("TriggeredBy", ())),
        started_usec=int(properties.get("InactiveExitTimestamp", 0)),
    )


def _seconds(usec: object) -> float | None:
    """A monotonic time of systemd in seconds; None where systemd has none, which it writes as 0."""
    return usec / 1e6 if isinstance(usec, int) and usec > 0 else None


def _activity(active_state: str) -> UnitActivity:
    if active_state in RUNNING:
        return UnitActivity.ACTIVE
    return UnitActivity(active_state) if active_state in ACTIVITIES else UnitActivity.UNKNOWN


def _unit_name_from_path(path: str) -> str:
    """Return the unit's name, which is the escaped last part of its object path; "" if it is malformed."""
    if not path.startswith(UNIT_PATH_PREFIX):
        return ""
    try:
        return unescape_label(path.removeprefix(UNIT_PATH_PREFIX))
    except ValueError:
        return ""
