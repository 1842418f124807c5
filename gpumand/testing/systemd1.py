"""A fake of org.freedesktop.systemd1 on a private bus, whose units run real processes.

``python -m gpumand.testing.systemd1 --bus-address ADDRESS --units FILE.json`` prints READY when it owns the name. The
file maps unit names to the keys of ``Behaviour``. The interface ``org.gpumand1.Testing`` of the manager object changes
them at run time:

- ``Configure(s unit, a{sv} changes)``: change the behaviour of a unit, or add a unit;
- ``Reexec()``: disconnect and reconnect as a new connection without subscribers;
- ``Reload()``: send the signals of a daemon-reload;
- ``Counts() → a{su}``: number of calls of each method, and "subscribers".

Like systemd, it sends signals only while a client is subscribed, unloads inactive units, names jobs, and replies to a
start before the job is done (unless ``Behaviour.job_removed`` is "before").
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

from dbus_fast import Variant

from gpumand.bus.connection import BusConnection, IncomingCall, Reply, Signal
from gpumand.bus.names import (
    DBUS,
    PROPERTIES,
    SYSTEMD,
    SYSTEMD_MANAGER,
    SYSTEMD_PATH,
    SYSTEMD_SERVICE,
    SYSTEMD_UNIT,
)
from gpumand.bus.object_paths import escape_label, unescape_label
from gpumand.bus.variants import unwrap
from gpumand.domain.errors import FREEDESKTOP_ERROR_PREFIX, GpumandError
from gpumand.testing.systemd1_units import Behaviour, FakeSystemdUnit, Job

TESTING = "org.gpumand1.Testing"
UNIT_PREFIX = SYSTEMD_PATH + "/unit/"
UNIT_NAME = re.compile(r"[A-Za-z0-9:_.\\@-]{1,249}\.[a-z]+")
JOB_KINDS = {"StartUnit": "start", "StopUnit": "stop", "RestartUnit": "restart"}


class Refusal(GpumandError):
    """An error with the D-Bus name that systemd uses."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.dbus_name = name if "." in name else f"org.freedesktop.systemd1.{name}"


class FakeSystemd:
    """The manager object of systemd and its units."""

    def __init__(self, address: str, behaviours: dict[str, Behaviour]) -> None:
        self._address = address
        self._behaviours = behaviours
        self._units: dict[str, FakeSystemdUnit] = {}
        self._subscribers: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._bus: BusConnection | None = None
        self._reexec: asyncio.Task[None] | None = None
        self._announcing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Connect to the bus and own the name."""
        bus = await BusConnection.connect(self._address)
        await bus.subscribe(sender=DBUS, member="NameOwnerChanged", callback=self._on_owner_changed)
        bus.serve(self._on_call)
        await bus.request_name(SYSTEMD)
        self._bus = bus

    async def close(self) -> None:
        """Kill the processes of all units and disconnect."""
        for unit in self._units.values():
            await unit.close()
        if self._bus is not None:
            await self._bus.close()

    async def wait_lost(self) -> None:
        """Return when the bus connection is lost; a Reexec does not count."""
        while self._bus is not None:
            await self._bus.wait_lost()
            if self._reexec is None:
                return
            await self._reexec
            self._reexec = None

    def _on_call(self, call: IncomingCall) -> Any:
        self._counts[call.member] += 1
        if call.interface == PROPERTIES:
            return self._on_properties(call)
        if call.path != SYSTEMD_PATH or call.interface not in (SYSTEMD_MANAGER, TESTING):
            raise Refusal(FREEDESKTOP_ERROR_PREFIX + "UnknownObject", f"no {call.interface} at {call.path}")
        if call.member in JOB_KINDS:
            return self._on_job(call)
        methods = {
            "Subscribe": self._subscribe,
            "Unsubscribe": self._unsubscribe,
            "GetUnit": self._get_unit,
            "LoadUnit": self._load_unit,
            "GetUnitByPID": self._get_unit_by_pid,
            "ListUnits": self._list_units,
            "ListUnitsByNames": self._list_units_by_names,
            "Configure": self._configure,
            "Reexec": self._start_reexec,
            "Reload": self._reload,
            "Counts": self._count,
        }
        if call.member not in methods:
            raise Refusal(FREEDESKTOP_ERROR_PREFIX + "UnknownMethod", f"no {call.member} here")
        return methods[call.member](call)

    async def _on_job(self, call: IncomingCall) -> Reply:
        name, mode = call.body
        if mode not in ("replace", "fail"):
            raise Refusal(FREEDESKTOP_ERROR_PREFIX + "InvalidArgs", f"job mode {mode} is not faked")
        unit = self._unit(name)
        _refuse(unit, JOB_KINDS[call.member])
        job = unit.enqueue(JOB_KINDS[call.member])
        if unit.behaviour.job_removed == "before":
            await job.done.wait()
        # call_soon runs after this coroutine has returned its reply, so JobRemoved is sent after the reply.
        asyncio.get_running_loop().call_soon(job.announced.set)
        return Reply("o", (job.path,))

    def _subscribe(self, call: IncomingCall) -> Reply:
        if call.sender in self._subscribers:
            raise Refusal("AlreadySubscribed", "Client is already subscribed.")
        self._subscribers.add(call.sender)
        return Reply()

    def _unsubscribe(self, call: IncomingCall) -> Reply:
        if call.sender not in self._subscribers:
            raise Refusal("NotSubscribed", "Client is not subscribed.")
        self._subscribers.discard(call.sender)
        return Reply()

    def _get_unit(self, call: IncomingCall) -> Reply:
        unit = self._unit(call.body[0])
        if unit.active_state == "inactive" and unit.job is None:
            raise Refusal("NoSuchUnit", f"Unit {unit.name} not loaded.")
        return Reply("o", (_path(unit.name),))

    def _load_unit(self, call: IncomingCall) -> Reply:
        return Reply("o", (_path(self._unit(call.body[0]).name),))

    def _get_unit_by_pid(self, call: IncomingCall) -> Reply:
        for unit in self._units.values():
            if unit.owns(call.body[0]):
                return Reply("o", (_path(unit.name),))
        raise Refusal("NoUnitForPID", f"PID {call.body[0]} does not belong to any loaded unit.")

    def _list_units(self, call: IncomingCall) -> Reply:
        return Reply("a(ssssssouso)", ([_row(unit) for unit in self._units.values()],))

    def _list_units_by_names(self, call: IncomingCall) -> Reply:
        """List units in the order of their names, like systemd: no invalid names, aliases by the name of their unit."""
        names = [name for name in call.body[0] if UNIT_NAME.fullmatch(name)]
        if template := next((name for name in names if "@." in name), ""):
            raise Refusal(
                FREEDESKTOP_ERROR_PREFIX + "InvalidArgs", f"Unit name {template} is missing the instance name."
            )
        return Reply("a(ssssssouso)", ([_row(self._unit(name)) for name in names],))

    def _configure(self, call: IncomingCall) -> Reply:
        name, changes = call.body
        behaviour = self._behaviours.setdefault(name, Behaviour())
        self._unit(name).behaviour = behaviour
        behaviour.change(unwrap(changes))
        return Reply()

    def _reload(self, call: IncomingCall) -> Reply:
        self._emit("Reloading", "b", (True,))
        self._emit("Reloading", "b", (False,))
        return Reply()

    def _count(self, call: IncomingCall) -> Reply:
        return Reply("a{su}", ({**self._counts, "subscribers": len(self._subscribers)},))

    def _start_reexec(self, call: IncomingCall) -> Reply:
        self._reexec = asyncio.ensure_future(self._come_back())
        return Reply()

    async def _come_back(self) -> None:
        assert self._bus is not None
        await self._bus.flush()
        former, self._bus = self._bus, None
        await former.close()
        self._subscribers.clear()
        await self.start()

    def _on_properties(self, call: IncomingCall) -> Reply:
        unit = self._unit_at(call.path)
        properties = _properties(unit, call.body[0])
        if call.member == "GetAll":
            return Reply("a{sv}", (properties,))
        if call.member != "Get" or call.body[1] not in properties:
            raise Refusal(FREEDESKTOP_ERROR_PREFIX + "UnknownProperty", f"no such property of {unit.name}")
        return Reply("v", (properties[call.body[1]],))

    def _unit_at(self, path: str) -> FakeSystemdUnit:
        if not path.startswith(UNIT_PREFIX):
            raise Refusal(FREEDESKTOP_ERROR_PREFIX + "UnknownObject", f"no unit at {path}")
        return self._unit(unescape_label(path.removeprefix(UNIT_PREFIX)))

    def _unit(self, name: str) -> FakeSystemdUnit:
        """Return a unit and load it if necessary; like systemd, create an object "not-found" for an unknown unit."""
        if name not in self._units:
            behaviour = self._behaviours.get(name) or Behaviour(load_state="not-found")
            if behaviour.alias_of:
                return self._unit(behaviour.alias_of)
            self._units[name] = FakeSystemdUnit(name, behaviour, self._on_changed, self._on_job_new, self._on_job_done)
        return self._units[name]

    def _on_changed(self, unit: FakeSystemdUnit) -> None:
        for interface in (SYSTEMD_UNIT, SYSTEMD_SERVICE):
            body: tuple[Any, ...] = (interface, _properties(unit, interface), [])
            self._emit("PropertiesChanged", "sa{sv}as", body, _path(unit.name), PROPERTIES)

    def _on_job_new(self, job: Job) -> None:
        self._emit("JobNew", "uos", (job.id, job.path, job.unit))

    def _on_job_done(self, job: Job) -> None:
        how = self._units[job.unit].behaviour.job_removed
        if how == "before":
            self._emit_removed(job)
        elif how == "after":
            task = asyncio.ensure_future(self._remove_when_announced(job))
            self._announcing.add(task)
            task.add_done_callback(self._announcing.discard)

    async def _remove_when_announced(self, job: Job) -> None:
        """Send JobRemoved after the reply that names the job."""
        # A job that no client has requested has no reply, so the wait is limited.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await job.announced.wait()
        self._emit_removed(job)

    def _emit_removed(self, job: Job) -> None:
        self._emit("JobRemoved", "uoss", (job.id, job.path, job.unit, job.result))

    def _on_owner_changed(self, received_signal: Signal) -> None:
        name, _, owner = received_signal.body
        if not owner:
            self._subscribers.discard(name)

    def _emit(
        self,
        member: str,
        signature: str,
        body: tuple[Any, ...],
        path: str = SYSTEMD_PATH,
        interface: str = SYSTEMD_MANAGER,
    ) -> None:
        if self._subscribers and self._bus is not None:
            self._bus.emit(path, interface, member, signature, body)


def _path(name: str) -> str:
    return UNIT_PREFIX + escape_label(name)


def _refuse(unit: FakeSystemdUnit, kind: str) -> None:
    behaviour = unit.behaviour
    if behaviour.access == "denied":
        raise Refusal(FREEDESKTOP_ERROR_PREFIX + "AccessDenied", "Permission denied")
    if behaviour.access == "interactive":
        raise Refusal(
            FREEDESKTOP_ERROR_PREFIX + "InteractiveAuthorizationRequired", "Interactive authentication required."
        )
    if behaviour.destructive:
        raise Refusal("TransactionIsDestructive", f"Transaction for {unit.name}/{kind} is destructive.")
    if kind == "stop":
        return
    if behaviour.load_state == "masked":
        raise Refusal("UnitMasked", f"Unit {unit.name} is masked.")
    if behaviour.load_state == "not-found":
        raise Refusal("NoSuchUnit", f"Unit {unit.name} not found.")
    if behaviour.load_state != "loaded":
        raise Refusal("BadUnitSetting", f"Unit {unit.name} has a bad unit file setting.")


def _properties(unit: FakeSystemdUnit, interface: str) -> dict[str, Variant]:
    behaviour = unit.behaviour
    if interface == SYSTEMD_SERVICE:
        return {
            "MainPID": Variant("u", unit.main_pid),
            "Result": Variant("s", unit.result),
            "NRestarts": Variant("u", unit.restarts),
            "TimeoutStartUSec": Variant("t", round(behaviour.start_limit_sec * 1e6)),
            "TimeoutStopUSec": Variant("t", round(behaviour.kill_after_sec * 1e6)),
        }
    job = [unit.job.id, unit.job.path] if unit.job is not None else [0, "/"]
    return {
        "Id": Variant("s", unit.name),
        "ActiveState": Variant("s", unit.active_state),
        "SubState": Variant("s", unit.sub_state),
        "LoadState": Variant("s", behaviour.load_state),
        "InvocationID": Variant("ay", unit.invocation_id),
        "ActiveEnterTimestampMonotonic": Variant("t", unit.active_enter_usec),
        "TriggeredBy": Variant("as", behaviour.triggered_by),
        "Job": Variant("(uo)", job),
    }


def _row(unit: FakeSystemdUnit) -> list[Any]:
    job = [unit.job.id, unit.job.kind, unit.job.path] if unit.job is not None else [0, "", "/"]
    states = [unit.behaviour.load_state, unit.active_state, unit.sub_state]
    return [unit.name, unit.name, *states, "", _path(unit.name), *job]


def read_behaviours(path: Path) -> dict[str, Behaviour]:
    """Read the units file. Raises ValueError for a key that Behaviour does not have."""
    behaviours = {}
    for name, keys in json.loads(path.read_text()).items():
        behaviours[name] = Behaviour()
        behaviours[name].change(keys)
    return behaviours


async def serve(address: str, behaviours: dict[str, Behaviour]) -> None:
    """Run until SIGTERM, SIGINT, or the loss of the bus connection."""
    systemd = FakeSystemd(address, behaviours)
    await systemd.start()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    print("READY", flush=True)
    ends = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(systemd.wait_lost())]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for end in ends:
        end.cancel()
    await systemd.close()


def main() -> None:
    """Run the fake systemd from the command line."""
    parser = argparse.ArgumentParser(description="a fake systemd for tests")
    parser.add_argument("--bus-address", required=True)
    parser.add_argument("--units", type=Path, required=True)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.bus_address, read_behaviours(arguments.units)))


if __name__ == "__main__":
    main()
