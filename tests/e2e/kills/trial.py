"""One blow in the middle of one moment, and a look at everything afterwards."""

from __future__ import annotations

import random
from collections.abc import Collection
from typing import Any

from tests.e2e.host import DAEMON
from tests.e2e.kills import checks, targets
from tests.e2e.kills.kill_methods import Armoury, Blow
from tests.e2e.kills.measurements import Round
from tests.e2e.kills.moments import PLAYS, Caller, Moment, Play
from tests.e2e.kills.scene import Scene

BEFORE_SHARE, CALLED_SHARE = 0.3, 0.5
AGAIN_SHARE, AGAIN_SEC = 0.15, 0.6
"""How often the next daemon is killed too, and until when: about as long as a start takes."""


class Trial:
    """Strikes the daemon, once a call of ``round``.

    Args:
        scene: what stands on the machine; what a round adds to it is gone with the round.
        armoury: what to strike with.
        draw: decides what is not said.
    """

    def __init__(self, scene: Scene, armoury: Armoury, draw: random.Random) -> None:
        self._scene = scene
        self._armoury = armoury
        self._draw = draw

    def round(self, blow: Blow, moment: Moment) -> Round:
        """One blow. Raises AssertionError where anything is not as it should be."""
        mortal = targets.drawn(self._scene, self._draw)
        play = PLAYS[moment](self._scene, self._draw)
        play.arrange()
        mortal.take()
        order = self._order(blow, mortal)
        play.begin()
        struck = self._scene.observer.do("strike", **order, delay_sec=play.delay_sec)
        told, granted = self._ask_around(blow, play)
        living = {*self._scene.standing, *play.held, *granted}
        kept = self._check(struck["status"], living, mortal, play)
        ready_sec = self._ready_sec()
        served = self._bring_to_an_end(play)
        mortal.bury()
        return Round(
            blow=str(blow),
            moment=str(moment),
            kills=1 if order["again_sec"] is None else 2,
            was_called=bool(order["calls"]),
            blow_sec=struck["blow_sec"],
            gap_sec=struck["gap_sec"],
            ready_sec=ready_sec,
            living=len(living),
            kept=kept,
            dead=len(mortal.leases),
            left=len(mortal.leases & self._leases()),
            told=told,
            served=served,
        )

    def _order(self, blow: Blow, mortal: targets.Mortal) -> dict[str, Any]:
        """What the agent is told."""
        pids, is_before = mortal.pids, self._draw.random() < BEFORE_SHARE
        is_again = blow is Blow.KILL and self._draw.random() < AGAIN_SHARE
        return {
            **self._armoury.order(blow, self._scene.host.machine.main_pid(DAEMON)),
            "before": pids if is_before else [],
            "meanwhile": [] if is_before else pids,
            "again_sec": self._draw.uniform(0.0, AGAIN_SEC) if is_again else None,
            "calls": self._draw.random() < CALLED_SHARE,
        }

    def _ask_around(self, blow: Blow, play: Play) -> tuple[int, set[str]]:
        """How many waiting callers were told why they wait no more; and the leases of those that were quicker."""
        errors = [answer.error for answer in (waiter.outcome() for waiter in play.waiters) if answer.error]
        assert set(errors) <= {blow.error}, errors
        granted = {waiter.granted for waiter in play.waiters if isinstance(waiter, Caller) and waiter.granted}
        return len(errors), granted

    def _check(self, status: dict[str, Any], living: Collection[str], mortal: targets.Mortal, play: Play) -> int:
        """Look at the first answer of the next daemon; how many leases are kept."""
        if self._armoury.version:
            assert status["version"] == self._armoury.version
        checks.assert_booked_once(status)
        checks.assert_known(status, play.consumer)
        found = checks.lease_ids(status)
        assert found >= set(living), f"lost: {set(living) - found}"
        checks.assert_owned(status, found - set(living) - mortal.leases, play.consumer)
        if mortal.dies_by_time:
            self._scene.await_rest(lambda: mortal.leases & self._leases(), "what has run out is gone")
        else:
            assert not found & mortal.leases, "a lease of the dead"
        return len(found & set(living))

    def _bring_to_an_end(self, play: Play) -> int:
        """Serve who waits, look at everything at rest, and leave nothing of the moment; how many were served."""
        scene = self._scene
        if not play.waiters:
            self._await_rest()
        scene.release(play.in_the_way)
        leases = {waiter.lease() for waiter in play.waiters}
        assert leases <= self._leases()
        if play.waiters:
            self._await_rest()
        scene.release(leases | (play.held - play.in_the_way))
        assert self._leases() == set(scene.standing), "leases that nobody has"
        return len(leases)

    def _await_rest(self) -> None:
        self._scene.await_rest(lambda: checks.unrest(self._scene), "the machine comes to rest")

    def _leases(self) -> set[str]:
        return checks.lease_ids(self._scene.observer.status())

    def _ready_sec(self) -> float:
        """How long the new process took to be ready."""

        def ready() -> dict[str, Any]:
            service: dict[str, Any] = self._scene.observer.do("service")
            return service if service["ActiveState"] == "active" else {}

        service = self._scene.host.machine.wait_until(ready, "it is ready")
        ready_usec = service["ActiveEnterTimestampMonotonic"] - service["ExecMainStartTimestampMonotonic"]
        return float(ready_usec / 1e6)
