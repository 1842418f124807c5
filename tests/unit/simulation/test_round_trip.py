"""The demand log of a daemon, simulated, reproduces its waiting times."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from random import Random

import pytest
from click.testing import CliRunner

from gpumand.cli.app import gpumanctl
from gpumand.domain.consumer import Policy, SchedulerSettings
from gpumand.domain.events import Event
from gpumand.domain.lease import LeaseLifetime
from gpumand.domain.request import AcquireOptions
from gpumand.history import DemandLog, HistoryRecorder
from gpumand.simulation import demand
from gpumand.simulation.demand import OpenDemand, Use
from gpumand.simulation.engine import Engine
from gpumand.testing.archive import MemoryArchive
from gpumand.testing.world import FakeWorld, client
from tests.unit.simulation.test_same_rules import SIZES, host


def random_uses(seed: int) -> list[Use]:
    """Random uses by three users, some with an explicit priority."""
    random, t, uses = Random(seed), 0.0, []
    for _ in range(30):
        t += random.choice([7.3, 13.7, 31.9, 67.1])
        hold_sec, user = random.choice([11.0, 23.0, 3.0]), random.choice(["1000", "1001", "1002"])
        uses.append(Use(t, random.choice(list(SIZES)), hold_sec, user, random.choice([0, 0, 7])))
    return uses


async def serve_and_log(uses: list[Use], settings: SchedulerSettings, path: Path) -> list[float]:
    """Let a daemon serve and log the uses; returns the waiting time of each."""
    consumers = host().consumers
    world = FakeWorld([one.spec for one in consumers.values()], scheduler=settings)
    for name, one in consumers.items():
        world.routes.consumer(name).load_sec, world.routes.consumer(name).unload_sec = one.load_sec, one.unload_sec
    recorder = HistoryRecorder(MemoryArchive(), world.clock, DemandLog(path))
    forward = world.arbiter._forward_event  # private: a FakeWorld does not pass its events on

    def publish(event: Event) -> None:
        forward(event)
        recorder.publish(event)

    world.arbiter._forward_event = publish
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())

    async def use(number: int, one: Use) -> float:
        await world.clock.sleep(one.t)
        options = AcquireOptions(LeaseLifetime.CONNECTION, timeout_sec=86400, priority=one.priority)
        grant = await world.arbiter.acquire(client(number, uid=int(one.client)), one.consumer, options)
        await world.clock.sleep(one.hold_sec)
        await world.arbiter.release(grant.lease.id)
        return grant.waited_usec / 1e6

    waits = await asyncio.gather(*(use(number, one) for number, one in enumerate(uses, start=1)))
    housekeeping.cancel()
    await recorder.close()
    return waits


@pytest.mark.parametrize("policy", list(Policy))
@pytest.mark.parametrize("seed", range(3))
def test_simulating_a_demand_log_reproduces_the_waits_of_the_daemon(seed: int, policy: Policy, tmp_path: Path) -> None:
    settings, path, uses = SchedulerSettings(policy=policy), tmp_path / "demand.jsonl", random_uses(seed)

    waited = asyncio.run(serve_and_log(uses, settings, path))
    with path.open() as lines:
        parsed = demand.parse(lines)
    outcome = Engine(host(), settings, OpenDemand(parsed)).run()

    first = uses[0].t
    assert [(one.consumer, one.client, one.priority) for one in parsed] == [
        (one.consumer, one.client, one.priority) for one in uses
    ]
    assert [one.t for one in parsed] == pytest.approx([one.t - first for one in uses], abs=0.01)
    assert [one.hold_sec for one in parsed] == pytest.approx([one.hold_sec for one in uses], abs=0.01)
    assert [one.wait_sec for one in outcome.served] == pytest.approx(waited, abs=2.0)


def test_simulate_command_accepts_a_demand_log_of_the_daemon(tmp_path: Path) -> None:
    path, times = tmp_path / "demand.jsonl", tmp_path / "times.toml"
    asyncio.run(serve_and_log(random_uses(1), SchedulerSettings(), path))
    tables = (f"[consumers.{name}]\nvram_resident_mib = {mib}\nload_sec = 4\n" for name, mib in SIZES.items())
    times.write_text("devices = [24564]\n" + "".join(tables))

    result = CliRunner().invoke(gpumanctl, ["simulate", str(path), "--consumers", str(times), "--json"])

    assert result.exit_code == 0, result.output
    assert [one["requests"] for one in json.loads(result.output)["policies"]] == [30, 30, 30]
