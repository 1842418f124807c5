"""Real units that seem to run: in a crash loop, with a dead server, or with a process that outlives its unit."""

from __future__ import annotations

import time

from tests.e2e.client import ERROR, Client
from tests.e2e.host import TOTAL_MIB, Host, holding, process

PORT = 8871
ROUTES = (f'url = "http://127.0.0.1:{PORT}"', 'health = { path = "/health", loaded = "/model_loaded" }')
LONG = "{'timeout_usec': <uint64 30000000>}"


def test_crash_loop_fails_the_load_with_the_first_restart_and_shows_its_log(host: Host, client: Client) -> None:
    crash = "/bin/sh -c 'echo CUDA error: out of memory >&2; sleep 2.5; exit 1'"
    host.unit("crashing", crash, "Restart=on-failure", "RestartSec=100ms")
    host.consumer("crashing", 8000, *ROUTES)
    host.start()
    began = time.monotonic()

    name, message = client.refusal("Acquire", "crashing", LONG)

    assert name == f"{ERROR}LoadFailed"
    assert "crashing.service ended while crashing was loading" in message
    assert "CUDA error: out of memory" in message
    assert time.monotonic() - began < 10
    assert host.machine.show("crashing.service", "ActiveState") in ("inactive", "failed")
    assert client.leases() == {}


def test_crash_loop_without_a_health_check_fails_the_load_too(host: Host, client: Client) -> None:
    host.unit("crashing", "/bin/sh -c 'sleep 2.5; exit 1'", "Restart=on-failure", "RestartSec=100ms")
    host.consumer("crashing", 8000)
    host.start()

    name, message = client.refusal("Acquire", "crashing", LONG)

    assert (name, client.leases()) == (f"{ERROR}LoadFailed", {})
    assert "crashing.service ended while crashing was loading" in message


def test_nothing_is_started_beside_a_process_that_outlives_its_unit(host: Host, client: Client) -> None:
    host.unit("alpha", f"/bin/sh -c '{holding('alpha', 15000)} & wait'", "KillMode=process")
    host.consumer("alpha", 15000)
    host.holder("beta", 15000)
    host.start()
    client.use("alpha", 15000)
    host.machine.systemctl("stop", "alpha.service")
    orphans = {str(pid) for pid in host.machine.pids("alpha.service")}
    assert len(orphans) == 1
    try:
        for consumer in ("alpha", "beta"):
            _, message = client.refusal("Acquire", consumer, LONG)
            for fact in ("alpha.service", *(f"pid {pid}" for pid in orphans), "KillMode"):
                assert fact in message
        assert client.leases() == {}
        assert host.machine.show("alpha.service", "ActiveState") == "inactive"
    finally:
        host.machine.run(["kill", "-KILL", *orphans])
    host.machine.wait_until(lambda: client.status()["devices"][0]["free_mib"] == TOTAL_MIB, "its memory is free")
    assert client.acquire("beta")[1]["loaded"]


def test_new_run_is_started_beside_such_a_process_where_both_fit(host: Host, client: Client) -> None:
    host.unit("alpha", f"/bin/sh -c '{holding('alpha', 9000)} & wait'", "KillMode=process")
    host.consumer("alpha", 9000)
    host.start()
    client.use("alpha", 9000)
    host.machine.systemctl("stop", "alpha.service")
    client.await_residency("alpha", "unloaded")
    orphans = {str(pid) for pid in host.machine.pids("alpha.service")}
    try:
        client.acquire("alpha")
        client.await_memory("alpha", 9000)
        assert client.status()["devices"][0]["free_mib"] == TOTAL_MIB - 18000
    finally:
        host.machine.systemctl("stop", "gpumand.service")
        host.machine.run(["kill", "-KILL", *orphans])
        left = [str(pid) for pid in host.machine.pids("alpha.service")]
        host.machine.systemctl("kill", "--signal=KILL", "alpha.service", check=False) if left else None


def test_server_that_died_under_its_active_unit_is_started_again_by_the_next_acquire(
    host: Host, client: Client
) -> None:
    server = f"{process('box', 8000)} --port={PORT} --loaded-at-start"
    host.unit("box", f"/bin/sh -c 'setsid {server} &'", "Type=oneshot", "RemainAfterExit=yes")
    host.consumer("box", 8000, *ROUTES)
    host.start()
    client.use("box", 8000)
    host.machine.run(["kill", "-KILL", *(str(pid) for pid in host.machine.pids("box.service"))])
    assert host.machine.show("box.service", "ActiveState") == "active"
    client.await_residency("box", "unloaded")

    _, grant = client.acquire("box")

    assert grant["loaded"] is True
    client.await_memory("box", 8000)
    assert host.machine.show("box.service", "ActiveState") == "active"


def test_forced_eviction_stops_a_unit_that_is_being_loaded(host: Host, client: Client) -> None:
    host.unit("slow", "/bin/sleep infinity")
    host.consumer("slow", 8000, *ROUTES)
    host.start()
    waiting = "{'timeout_usec': <uint64 1000000>}"
    assert client.refusal("Acquire", "slow", waiting)[0] == f"{ERROR}TimedOut"
    assert host.machine.show("slow.service", "ActiveState") == "active"

    client.call("Evict", "sa{sv}", "slow", "1", "force", "b", "true")

    assert host.machine.show("slow.service", "ActiveState") == "inactive"
    assert client.consumer("slow")["residency"] == "unloaded"
