"""The conditions under which the daemon pings systemd's watchdog."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.arbiter.loop_deadlines import LoopDeadlines
from gpumand.daemon.watchdog import STALL_SEC, Liveness, ThreadedSource, Watchdog, failure_reason
from gpumand.testing.clock import FakeClock


@pytest.mark.parametrize(
    ("liveness", "why"),
    [
        (Liveness(bus_lost="closed"), "the bus connection is lost: closed"),
        (Liveness(arbiter_error="KeyError('x')"), "queue"),
        (Liveness(sampler_alive=False), "thread that reads VRAM has died"),
        (Liveness(sampler_alive=False, degraded="nvml-hangs"), "thread that reads VRAM has died"),
        (Liveness(sampler_busy_sec=STALL_SEC + 1), "hung for 121 s without being reported as degraded"),
        (Liveness(housekeeping_ended=True), "housekeeping loops have ended"),
        (Liveness(overdue_sec={"sampling": STALL_SEC + 1, "probing": 5.0}), "sampling is 121 s late"),
    ],
)
def test_each_failed_check_is_a_reason_to_restart(liveness: Liveness, why: str) -> None:
    assert why in failure_reason(liveness)


@pytest.mark.parametrize(
    "liveness",
    [
        Liveness(),
        Liveness(sampler_busy_sec=3600.0, degraded="nvml-hangs: a driver call has not returned for 3600 s"),
        Liveness(sampler_busy_sec=STALL_SEC - 1),
        Liveness(overdue_sec={"sampling": STALL_SEC - 1}),
        Liveness(degraded="nvml-error: the driver lists no GPU"),
    ],
)
def test_degraded_or_slow_daemon_keeps_running(liveness: Liveness) -> None:
    assert failure_reason(liveness) == ""


class ScriptedDaemon:
    """A daemon with scripted check results; None = the check raises."""

    def __init__(self) -> None:
        self.liveness: Liveness | None = Liveness()
        self.checks = 0
        self.pings = 0

    def check(self) -> Liveness:
        self.checks += 1
        if self.liveness is None:
            raise RuntimeError("injected")
        return self.liveness

    def ping(self) -> None:
        self.pings += 1


async def run_watchdog(clock: FakeClock, daemon: ScriptedDaemon, seconds: float) -> None:
    running = asyncio.create_task(Watchdog(clock, 30.0, daemon.check, daemon.ping).run())
    await clock.advance(seconds)
    running.cancel()


async def test_pings_come_at_once_and_then_twice_a_period() -> None:
    clock, daemon = FakeClock(), ScriptedDaemon()
    await run_watchdog(clock, daemon, 60.0)
    assert daemon.pings == daemon.checks == 5


@pytest.mark.parametrize("liveness", [None, Liveness(sampler_alive=False)])
async def test_failed_checks_stop_pings_and_are_repeated_more_often(liveness: Liveness | None) -> None:
    clock, daemon = FakeClock(), ScriptedDaemon()
    daemon.liveness = liveness
    await run_watchdog(clock, daemon, 30.0)
    assert daemon.pings == 0
    assert daemon.checks == 9


async def test_recovery_within_the_period_resumes_pings(caplog: pytest.LogCaptureFixture) -> None:
    clock, daemon = FakeClock(), ScriptedDaemon()
    watchdog = Watchdog(clock, 30.0, daemon.check, daemon.ping)
    assert watchdog.beat()
    daemon.liveness = Liveness(housekeeping_ended=True)
    assert not watchdog.beat()
    assert not watchdog.beat()
    daemon.liveness = Liveness()
    assert watchdog.beat()
    assert daemon.pings == 2
    assert [record.levelname for record in caplog.records] == ["CRITICAL", "WARNING"], (
        "logged once, not with every check"
    )


def test_restarted_loop_keeps_its_first_deadline() -> None:
    deadlines = LoopDeadlines()
    deadlines.expect("sampling", 10.0)
    assert deadlines.overdue_sec(9.0) == {}
    deadlines.expect("sampling", 100.0)
    assert deadlines.overdue_sec(15.0) == {"sampling": 5.0}
    deadlines.finished("sampling", 20.0)
    assert deadlines.overdue_sec(20.0) == {}


def test_sources_with_a_thread_are_known_as_such() -> None:
    from gpumand.vram.no_source import NoSource
    from gpumand.vram.nvml import NvmlSource

    clock = FakeClock()
    assert isinstance(NvmlSource(clock), ThreadedSource)
    assert not isinstance(NoSource(None, clock), ThreadedSource)
