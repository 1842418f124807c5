"""Kills the daemon in a situation and checks the state of the host afterwards."""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Any

from tests.e2e.host import DAEMON
from tests.e2e.kills import checks
from tests.e2e.kills.deployment import Deployment
from tests.e2e.kills.ending_owners import EndingOwner, random_owner
from tests.e2e.kills.kill_methods import DaemonKiller, KillMethod
from tests.e2e.kills.measurements import Round
from tests.e2e.kills.situations import SCENARIOS, Caller, Scenario, Situation

BEFORE_SHARE, CALLED_SHARE = 0.3, 0.5
AGAIN_SHARE, AGAIN_SEC = 0.15, 0.6
"""Share of kills after which the restarted daemon is killed too, and the latest time: about the duration of a start."""


class KillRunner:
    """Kills the daemon once per call of ``run_round``.

    Args:
        deployment: the machine; each round removes what it adds.
        killer: carries out the kills.
        draw: random choices of all that is not given.
    """

    def __init__(self, deployment: Deployment, killer: DaemonKiller, draw: random.Random) -> None:
        self._deployment = deployment
        self._killer = killer
        self._draw = draw

    def run_round(self, method: KillMethod, situation: Situation) -> Round:
        """Kill the daemon once. Raises AssertionError if a lease is lost or the state is wrong afterwards."""
        ending = random_owner(self._deployment, self._draw)
        scenario = SCENARIOS[situation](self._deployment, self._draw)
        scenario.prepare()
        ending.take()
        arguments = self._arguments(method, ending)
        scenario.begin()
        killed = self._deployment.observer.do("kill", **arguments, delay_sec=scenario.delay_sec)
        refused, granted = self._outcomes(method, scenario)
        living = {*self._deployment.permanent, *scenario.held, *granted}
        kept = self._check(killed["status"], living, ending, scenario)
        ready_sec = self._ready_sec()
        served = self._finish(scenario)
        ending.clean_up()
        return Round(
            method=str(method),
            situation=str(situation),
            kills=1 if arguments["again_sec"] is None else 2,
            was_called=bool(arguments["calls"]),
            kill_to_answer_sec=killed["kill_to_answer_sec"],
            gap_sec=killed["gap_sec"],
            ready_sec=ready_sec,
            living=len(living),
            kept=kept,
            dead=len(ending.leases),
            left=len(ending.leases & self._leases()),
            refused=refused,
            served=served,
        )

    def _arguments(self, method: KillMethod, ending: EndingOwner) -> dict[str, Any]:
        """Return the arguments of the command ``kill``."""
        pids, is_before = ending.pids, self._draw.random() < BEFORE_SHARE
        is_repeated = method is KillMethod.KILL and self._draw.random() < AGAIN_SHARE
        return {
            **self._killer.kill_arguments(method, self._deployment.host.machine.main_pid(DAEMON)),
            "before": pids if is_before else [],
            "meanwhile": [] if is_before else pids,
            "again_sec": self._draw.uniform(0.0, AGAIN_SEC) if is_repeated else None,
            "calls": self._draw.random() < CALLED_SHARE,
        }

    def _outcomes(self, method: KillMethod, scenario: Scenario) -> tuple[int, set[str]]:
        """Return the number of waiting requests that were refused, and the leases of those that were granted before."""
        errors = [answer.error for answer in (waiter.outcome() for waiter in scenario.waiters) if answer.error]
        assert set(errors) <= {method.error}, errors
        granted = {waiter.granted for waiter in scenario.waiters if isinstance(waiter, Caller) and waiter.granted}
        return len(errors), granted

    def _check(
        self,
        status: dict[str, Any],
        living: Collection[str],
        ending: EndingOwner,
        scenario: Scenario,
    ) -> int:
        """Check the first answer of the restarted daemon. Returns the number of surviving leases."""
        if self._killer.version:
            assert status["version"] == self._killer.version
        checks.assert_no_memory_reserved_twice(status)
        checks.assert_leased_are_resident(status, scenario.consumer)
        found = checks.lease_ids(status)
        assert found >= set(living), f"lost: {set(living) - found}"
        checks.assert_unreported_leases_are_of_callers(status, found - set(living) - ending.leases, scenario.consumer)
        if ending.dies_by_time:
            self._deployment.await_rest(lambda: ending.leases & self._leases(), "the expired lease is gone")
        else:
            assert not found & ending.leases, "a lease without an owner"
        return len(found & set(living))

    def _finish(self, scenario: Scenario) -> int:
        """Grant the waiting requests, check the host at rest, and clean up. Returns the number of grants."""
        deployment = self._deployment
        if not scenario.waiters:
            self._await_rest()
        deployment.release(scenario.blocking)
        leases = {waiter.lease() for waiter in scenario.waiters}
        assert leases <= self._leases()
        if scenario.waiters:
            self._await_rest()
        deployment.release(leases | (scenario.held - scenario.blocking))
        assert self._leases() == set(deployment.permanent), "leases without an owner"
        return len(leases)

    def _await_rest(self) -> None:
        self._deployment.await_rest(lambda: checks.inconsistency(self._deployment), "the machine comes to rest")

    def _leases(self) -> set[str]:
        return checks.lease_ids(self._deployment.observer.status())

    def _ready_sec(self) -> float:
        """Return the time that the new process needed to become ready."""

        def ready() -> dict[str, Any]:
            service: dict[str, Any] = self._deployment.observer.do("service")
            return service if service["ActiveState"] == "active" else {}

        service = self._deployment.host.machine.wait_until(ready, "it is ready")
        ready_usec = service["ActiveEnterTimestampMonotonic"] - service["ExecMainStartTimestampMonotonic"]
        return float(ready_usec / 1e6)
