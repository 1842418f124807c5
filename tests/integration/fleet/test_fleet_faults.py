"""The worst faults of a fleet, with real hosts in namespaces; make fleet-test has all of them, with limits."""

from __future__ import annotations

import pytest

from tests.fleet.faults import cut_off, kill_agent, kill_leader, kill_router, lose_quorum, suspend, take_over
from tests.fleet.lab import running_lab
from tests.fleet.network import needs_namespaces

pytestmark = [needs_namespaces, pytest.mark.timeout(400)]


async def test_cut_host_serves_its_users_and_is_replaced_for_others() -> None:
    async with running_lab() as lab:
        host, other = lab.followers()
        await cut_off(lab, host, other)


async def test_leader_agent_and_router_are_killed_one_after_the_other() -> None:
    async with running_lab() as lab:
        await kill_leader(lab, watch_sec=0.0)
        await kill_agent(lab)
        await kill_router(lab)


async def test_running_leases_survive_the_loss_of_quorum() -> None:
    async with running_lab() as lab:
        await lose_quorum(lab)


async def test_unique_consumer_is_given_up_before_another_host_has_it() -> None:
    async with running_lab() as lab:
        holder, other = lab.followers()
        fall = await take_over(lab, holder, other, lambda: lab.network.cut(holder))
        assert fall.fence_sec < fall.taken_sec
        lab.network.heal(holder)
        await lab.calm()
        await suspend(lab, other, holder)
