"""Leases without a consumer under a booted systemd: the confined daemon follows units and processes of others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.e2e.client import Client
from tests.e2e.host import DAEMON, Host, holding

TAKE = "ExecStartPre=/usr/bin/gpumanctl acquire --vram 12000M"


@pytest.fixture(autouse=True)
def daemon(host: Host) -> None:
    """One consumer, and the daemon."""
    host.holder("alpha", 16000)
    host.start()


def memory(client: Client) -> tuple[int, int]:
    """Reserved and foreign MiB."""
    device = client.status()["devices"][0]
    return device["reserved_mib"], device["foreign_mib"]


def await_memory(host: Host, client: Client, reserved_mib: int, foreign_mib: int) -> None:
    what = f"{reserved_mib} MiB are reserved and {foreign_mib} MiB are foreign"
    host.machine.wait_until(lambda: memory(client) == (reserved_mib, foreign_mib), what)


@contextlib.contextmanager
def running(host: Host, command: str, *lines: str) -> Iterator[None]:
    """Run a command as job.service for as long as the block lasts."""
    host.unit("job", command, *lines)
    host.machine.systemctl("start", "job.service")
    try:
        yield
    finally:
        host.machine.systemctl("stop", "job.service")


def test_command_of_run_evicts_a_unit_and_is_followed_although_another_user_runs_it(host: Host, client: Client) -> None:
    host.machine.systemctl("start", "alpha.service")
    client.await_memory("alpha", 16000)
    with running(host, f"/usr/bin/gpumanctl run --vram 12000M --wait -- {holding('train', 9000)}"):
        await_memory(host, client, 3000, 0)
        (lease,) = client.leases().values()
        assert (lease["consumer"], lease["vram_mib"], lease["used_mib"]) == ("", 12000, 9000)
        assert (lease["owner"], lease["program"]) == ("job.service", "gpumanctl")
        assert client.consumer("alpha")["residency"] == "unloaded"
    host.machine.wait_until(lambda: client.leases() == {}, "the lease ended")
    await_memory(host, client, 0, 0)


@pytest.mark.parametrize("lifetime", ["unit", "ttl"])
def test_processes_of_a_unit_count_against_what_it_acquired_before_its_start(
    host: Host, client: Client, lifetime: str
) -> None:
    with running(host, holding("train", 9000), f"{TAKE} --lifetime {lifetime}"):
        await_memory(host, client, 3000, 0)
        host.machine.systemctl("kill", "--signal=KILL", DAEMON)
        host.machine.wait_until(client.leases, "systemd has restarted the daemon, and the lease stands")
        await_memory(host, client, 3000, 0)
    if lifetime == "unit":
        host.machine.wait_until(lambda: client.leases() == {}, "the lease ended with its unit")
    else:
        await_memory(host, client, 12000, 0)
        client.release(next(iter(client.leases())))


def test_other_processes_of_the_host_are_foreign_beside_a_reservation(host: Host, client: Client) -> None:
    host.unit("game", holding("game", 2000), "User=nobody")
    with running(host, f"/usr/bin/gpumanctl run --vram 12000M --wait -- {holding('train', 9000)}"):
        host.machine.systemctl("start", "game.service")
        await_memory(host, client, 3000, 2000)
    host.machine.systemctl("stop", "game.service")


def test_user_without_permission_may_not_reserve_vram_and_may_plan_it(host: Host, client: Client) -> None:
    host.machine.run(["gpumanctl", "plan", "--vram", "4G"], user="nobody")
    error, message = client.refusal("Acquire", "''", "{'vram_mib': <uint32 4096>}", user="nobody")
    assert error.endswith(("AccessDenied", "InteractiveAuthorizationRequired"))
    assert "reserve VRAM" in message
    assert client.leases() == {}
