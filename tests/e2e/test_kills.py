"""No lease is lost when the daemon is ended repeatedly, by every method and in every situation.

The measurements are in ``build/reliability.json``; ``make reliability`` writes docs/reliability.md from it.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.client import Client
from tests.e2e.host import DAEMON, Host
from tests.e2e.kills import checks
from tests.e2e.kills.deployment import Deployment
from tests.e2e.kills.kill_methods import DaemonKiller, KillMethod
from tests.e2e.kills.kill_runner import KillRunner
from tests.e2e.kills.measurements import Measurements
from tests.e2e.kills.packages import variants
from tests.e2e.kills.situations import Situation
from tests.e2e.machine import Machine

KILLS = int(os.environ.get("GPUMAND_KILLS") or 200)
WEIGHTS = {KillMethod.KILL: 70, KillMethod.RESTART: 24, KillMethod.WATCHDOG: 4, KillMethod.UPGRADE: 2}
LEAST = 2
"""Minimum number of kills for each pair of method and situation."""


def schedule(draw: random.Random, kills: int) -> list[tuple[KillMethod, Situation]]:
    """Return kill methods and situations in random order: every pair ``LEAST`` times if there are enough kills."""
    pairs = [(method, situation) for method in KillMethod for situation in Situation] * LEAST
    drawn = draw.choices(list(WEIGHTS), list(WEIGHTS.values()), k=max(0, kills - len(pairs)))
    pairs += [(method, draw.choice(list(Situation))) for method in drawn]
    draw.shuffle(pairs)
    return pairs[:kills]


@pytest.fixture
def killer(own_machine: Machine, deb: Path, tmp_path: Path) -> Iterator[DaemonKiller]:
    one = DaemonKiller(own_machine, variants(own_machine, deb, tmp_path))
    yield one
    one.restore_unit()


@pytest.fixture
def deployment(own_machine: Machine, killer: DaemonKiller) -> Iterator[Deployment]:
    one = Deployment.create(Host(own_machine, Client(own_machine)))
    yield one
    one.close()


def exposure(machine: Machine) -> str:
    """Return the exposure of the daemon according to systemd-analyze security, from 0 to 10."""
    said = machine.run(["systemd-analyze", "security", "--no-pager", DAEMON]).stdout
    match = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert match, said
    return match[1]


@pytest.mark.timeout(1500)
def test_repeated_kills_lose_no_lease(deployment: Deployment, killer: DaemonKiller, seed: int) -> None:
    draw = random.Random(seed)
    print("seed", seed)
    measurements = Measurements(seed, os.cpu_count() or 1, exposure(deployment.host.machine))
    runner, rounds = KillRunner(deployment, killer, draw), schedule(draw, KILLS)
    for number, (method, situation) in enumerate(rounds):
        print(f"{number}: {method} during {situation}", end=", ", flush=True)
        began = time.monotonic()
        measurements.rounds.append(runner.run_round(method, situation))
        print(f"{time.monotonic() - began:.1f} s")
    deployment.end_owners()
    checks.assert_clean_end(deployment)
    measurements.write()
    print(Counter((one.method, one.situation) for one in measurements.rounds))
