"""Restart without loss: the daemon is ended again and again, in every way and in the middle of everything.

``build/reliability.json`` has what was measured; ``make reliability`` writes docs/reliability.md from it.
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
from tests.e2e.kills.kill_methods import Armoury, Blow
from tests.e2e.kills.measurements import Figures
from tests.e2e.kills.moments import Moment
from tests.e2e.kills.packages import variants
from tests.e2e.kills.scene import Scene
from tests.e2e.kills.trial import Trial
from tests.e2e.machine import Machine

KILLS = int(os.environ.get("GPUMAND_KILLS") or 200)
WEIGHTS = {Blow.KILL: 70, Blow.RESTART: 24, Blow.WATCHDOG: 4, Blow.UPGRADE: 2}
LEAST = 2
"""How often each blow falls in each moment at least."""


def schedule(draw: random.Random, kills: int) -> list[tuple[Blow, Moment]]:
    """Which blow falls in which moment, in random order: every pair at least ``LEAST`` times where there is room."""
    pairs = [(blow, moment) for blow in Blow for moment in Moment] * LEAST
    drawn = draw.choices(list(WEIGHTS), list(WEIGHTS.values()), k=max(0, kills - len(pairs)))
    pairs += [(blow, draw.choice(list(Moment))) for blow in drawn]
    draw.shuffle(pairs)
    return pairs[:kills]


@pytest.fixture
def armoury(own_machine: Machine, deb: Path, tmp_path: Path) -> Iterator[Armoury]:
    one = Armoury(own_machine, variants(own_machine, deb, tmp_path))
    yield one
    one.disarm()


@pytest.fixture
def scene(own_machine: Machine, armoury: Armoury) -> Iterator[Scene]:
    one = Scene.made(Host(own_machine, Client(own_machine)))
    yield one
    one.close()


def exposure(machine: Machine) -> str:
    """What systemd reckons that a hole in the daemon would open, from 0 to 10."""
    said = machine.run(["systemd-analyze", "security", "--no-pager", DAEMON]).stdout
    match = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert match, said
    return match[1]


@pytest.mark.timeout(1500)
def test_repeated_kills_lose_no_lease(scene: Scene, armoury: Armoury, seed: int) -> None:
    draw = random.Random(seed)
    print("seed", seed)
    figures = Figures(seed, os.cpu_count() or 1, exposure(scene.host.machine))
    trial, rounds = Trial(scene, armoury, draw), schedule(draw, KILLS)
    for number, (blow, moment) in enumerate(rounds):
        print(f"{number}: {blow} in the middle of {moment}", end=", ", flush=True)
        began = time.monotonic()
        figures.rounds.append(trial.round(blow, moment))
        print(f"{time.monotonic() - began:.1f} s")
    scene.end_owners()
    checks.assert_clean_end(scene)
    figures.write()
    print(Counter((one.blow, one.moment) for one in figures.rounds))
