from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from gpumand.bus.connection import BusConnection
from gpumand.domain.consumer import UnitActivity
from gpumand.ports import UnitManager
from gpumand.service_manager.units import SystemdUnits
from tests.integration.service_manager.conftest import UNITS
from tests.integration.service_manager.host import FakeHost, failure_of, until
from tests.waiting import is_running, until_ended


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_unit_starts_and_stops_with_its_processes(host: FakeHost, units: SystemdUnits) -> None:
    port: UnitManager = units
    former = await port.state("a.service")
    assert (former.activity, former.active_since) == (UnitActivity.INACTIVE, None)
    await port.start("a.service", 10)
    state = await port.state("a.service")
    assert (state.activity, state.load_state, state.result) == (UnitActivity.ACTIVE, "loaded", "success")
    assert len(state.invocation_id) == 32
    assert state.active_since is not None
    assert 0 <= time.monotonic() - state.active_since < 60
    pid = await host.main_pid("a.service")
    assert is_running(pid)
    await port.stop("a.service", 10)
    assert (await port.state("a.service")).activity is UnitActivity.INACTIVE
    await until_ended(pid)


async def test_starting_active_and_stopping_inactive_unit_succeeds(units: SystemdUnits) -> None:
    await units.stop("a.service", 10)
    await units.start("a.service", 10)
    invocation_id = (await units.state("a.service")).invocation_id
    await units.start("a.service", 10)
    assert (await units.state("a.service")).invocation_id == invocation_id


async def test_a_target_has_no_result(units: SystemdUnits) -> None:
    await units.start("bare.target", 10)
    state = await units.state("bare.target")
    assert (state.activity, state.result) == (UnitActivity.ACTIVE, "")


async def test_two_concurrent_starts_of_one_unit_succeed(host: FakeHost, units: SystemdUnits) -> None:
    await host.configure("a.service", start_delay_sec=0.2)
    await asyncio.gather(units.start("a.service", 10), units.start("a.service", 10))


@pytest.mark.parametrize("order", ["before", "after", "never"])
async def test_end_of_a_job_is_noticed_with_and_without_its_signal(
    host: FakeHost, units: SystemdUnits, order: str
) -> None:
    await host.configure("a.service", job_removed=order, start_delay_sec=0.05)
    await units.start("a.service", 10)
    await units.stop("a.service", 10)
    assert (await units.state("a.service")).activity is UnitActivity.INACTIVE


@pytest.mark.parametrize("order", ["before", "after", "never"])
@pytest.mark.parametrize("result", ["failed", "timeout", "dependency", "novelty"])
async def test_failed_start_names_the_result(host: FakeHost, units: SystemdUnits, result: str, order: str) -> None:
    await host.configure("a.service", start_result=result, job_removed=order)
    failure = await failure_of(units.start("a.service", 10))
    assert failure.reason == ("failed" if order == "never" else result)
    assert str(failure).startswith("a.service did not start: ")
    assert ("timeout" if result == "timeout" else "exit-code") in str(failure)
    assert (await units.state("a.service")).activity is UnitActivity.FAILED


async def test_start_with_failed_condition_is_a_failure(host: FakeHost, units: SystemdUnits) -> None:
    await host.configure("a.service", condition_fails=True)
    failure = await failure_of(units.start("a.service", 10))
    assert failure.reason == "inactive"
    assert "a condition of the unit failed" in str(failure)


@pytest.mark.parametrize("load_state", ["masked", "not-found", "bad-setting"])
async def test_unusable_unit_is_refused_without_a_job(host: FakeHost, units: SystemdUnits, load_state: str) -> None:
    await host.configure("a.service", load_state=load_state)
    assert (await units.state("a.service")).load_state == load_state
    assert (await failure_of(units.start("a.service", 10))).reason == load_state
    assert "StartUnit" not in await host.counts()


async def test_unknown_unit_is_not_found(units: SystemdUnits) -> None:
    assert (await units.state("nobody.service")).load_state == "not-found"
    assert (await failure_of(units.start("nobody.service", 10))).reason == "not-found"
    await units.stop("nobody.service", 10)


@pytest.mark.parametrize("access", ["denied", "interactive"])
async def test_operation_forbidden_by_polkit_is_denied(host: FakeHost, units: SystemdUnits, access: str) -> None:
    await units.start("a.service", 10)
    await host.configure("a.service", access=access)
    await host.configure("b.service", access=access)
    for work in (units.stop("a.service", 10), units.start("b.service", 10)):
        failure = await failure_of(work)
        assert failure.reason == "denied"
        assert "does not allow gpumand to" in str(failure)
    assert (await units.state("a.service")).activity is UnitActivity.ACTIVE


async def test_nothing_is_started_while_the_host_shuts_down(host: FakeHost, units: SystemdUnits) -> None:
    await host.configure("a.service", destructive=True)
    assert (await failure_of(units.start("a.service", 10))).reason == "shutting-down"


async def test_start_timeout_names_the_units_longer_limit(host: FakeHost, units: SystemdUnits) -> None:
    await host.configure("a.service", start_delay_sec=30.0, start_limit_sec=90.0)
    failure = await failure_of(units.start("a.service", 1.0))
    assert failure.reason == "timeout"
    assert str(failure) == "a.service did not start within 1 s and is activating; its own TimeoutStartUSec is 90 s"


async def test_stop_timeout_names_the_units_longer_limit(host: FakeHost, units: SystemdUnits) -> None:
    await units.start("a.service", 10)
    await host.configure("a.service", ignores_sigterm=True, kill_after_sec=3.0)
    failure = await failure_of(units.stop("a.service", 0.8))
    assert failure.reason == "timeout"
    assert "its own TimeoutStopUSec is 3 s" in str(failure)
    await units.stop("a.service", 10)


async def test_process_that_ignores_sigterm_is_killed(host: FakeHost, units: SystemdUnits) -> None:
    await units.start("a.service", 10)
    await host.configure("a.service", ignores_sigterm=True, kill_after_sec=0.2)
    await units.stop("a.service", 10)
    state = await units.state("a.service")
    assert (state.activity, state.result) == (UnitActivity.FAILED, "timeout")


async def test_start_waits_for_a_running_stop(host: FakeHost, units: SystemdUnits) -> None:
    await units.start("a.service", 10)
    await host.configure("a.service", stop_delay_sec=0.3)
    stopping = asyncio.ensure_future(units.stop("a.service", 10))
    await until(lambda: _is(units, "a.service", UnitActivity.DEACTIVATING))
    await units.start("a.service", 10)
    assert (await units.state("a.service")).activity is UnitActivity.ACTIVE
    failure = await failure_of(stopping)
    assert failure.reason in ("reactivated", "failed")


async def test_reactivated_unit_is_a_failure_that_names_the_trigger(
    host: FakeHost, units: SystemdUnits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units, "_settle_sec", 2.0)  # the systemd of a busy machine takes a moment
    await units.start("a.service", 10)
    await host.configure("a.service", reactivates_after_sec=0.02, triggered_by=["a.socket", "a.path"])
    failure = await failure_of(units.stop("a.service", 10))
    assert failure.reason == "reactivated"
    assert str(failure) == ("a.service was started again right after it was stopped, triggered by a.socket a.path")


async def test_stop_cancels_a_running_start(host: FakeHost, units: SystemdUnits) -> None:
    await host.configure("a.service", start_delay_sec=0.3)
    starting = asyncio.ensure_future(units.start("a.service", 10))
    await until(lambda: _is(units, "a.service", UnitActivity.ACTIVATING))
    await units.stop("a.service", 10)
    failure = await failure_of(starting)
    assert failure.reason == "canceled"
    assert "another job replaced its job" in str(failure)


async def test_pids_of_a_unit_and_its_children_are_found(host: FakeHost, units: SystemdUnits) -> None:
    await units.start("tree.service", 10)
    leader = await host.main_pid("tree.service")
    await until(lambda: len(children_of(leader)) == 2)
    for pid in (leader, *children_of(leader)):
        assert await units.unit_of_pid(pid) == "tree.service"
    for pid in (os.getpid(), 0, -1, 2**40):
        assert await units.unit_of_pid(pid) == ""


async def test_crash_is_shown_in_the_result(host: FakeHost, units: SystemdUnits) -> None:
    await units.start("a.service", 10)
    os.kill(await host.main_pid("a.service"), signal.SIGKILL)
    await until(lambda: _is(units, "a.service", UnitActivity.FAILED))
    assert (await units.state("a.service")).result == "signal"


async def test_invalid_names_are_refused_without_asking_systemd(units: SystemdUnits) -> None:
    for work in (units.state("../x"), units.start("x", 1), units.stop("x\n.service", 1)):
        assert (await failure_of(work)).reason == "bad-name"
    assert await units.failure_lines("x y") == ()


async def test_without_systemd_everything_is_unavailable_until_it_appears(
    empty_host: FakeHost, connection: BusConnection
) -> None:
    units = await SystemdUnits.attach(connection, poll_sec=0.2)
    for work in (units.state("a.service"), units.start("a.service", 5), units.stop("a.service", 5)):
        assert (await failure_of(work)).reason == "unavailable"
    assert await units.unit_of_pid(1) == ""
    await empty_host.boot(UNITS)
    await units.start("a.service", 10)
    await until(empty_host.subscribed)
    await units.close()


async def test_units_work_after_a_systemd_reexec(host: FakeHost, units: SystemdUnits) -> None:
    await units.start("a.service", 10)
    await host.reexec()
    assert (await units.state("a.service")).activity is UnitActivity.ACTIVE
    await units.stop("a.service", 10)
    await until(host.subscribed)


async def test_stopped_systemd_is_unavailable(host: FakeHost, units: SystemdUnits) -> None:
    await units.state("a.service")
    await host.halt()
    failure = await failure_of(units.state("a.service"))
    assert failure.reason == "unavailable"


async def test_lost_bus_is_unavailable(host: FakeHost, units: SystemdUnits, connection: BusConnection) -> None:
    await units.state("a.service")
    await connection.close()
    assert (await failure_of(units.start("a.service", 5))).reason == "unavailable"
    assert await units.unit_of_pid(1) == ""
    assert await units.failure_lines("a.service") == ()


async def _is(units: SystemdUnits, unit: str, activity: UnitActivity) -> bool:
    return (await units.state(unit)).activity is activity
