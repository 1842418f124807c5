"""Memory of processes in the cgroups of containers: it is the consumer's, once, during a lease and after it.

The scopes are named as those of Docker. Real engines are in test_container_engines.py.
"""

from __future__ import annotations

from typing import Any

from tests.e2e.client import Client
from tests.e2e.host import Host, holding, process

DOCKER = "/opt/e2e/docker"
CLIENT = """#!/usr/bin/python3
import secrets, signal, subprocess, sys
container, command = secrets.token_hex(32), {command!r}
with open(sys.argv[sys.argv.index("--cidfile") + 1], "w") as file:
    file.write(container)
scope = ["systemd-run", "--scope", "--quiet", "--collect", f"--unit=docker-{{container}}.scope"]
child = subprocess.Popen([*scope, *command.split()])
signal.signal(signal.SIGTERM, lambda *_: child.terminate())
sys.exit(child.wait())
"""


def _scope(number: int) -> tuple[str, str]:
    """The id of a container, and the command that runs another one in its scope."""
    container = f"{number:064x}"
    return container, f"/usr/bin/systemd-run --scope --quiet --collect --unit=docker-{container}.scope"


def _device(client: Client) -> dict[str, Any]:
    (device,) = client.status()["devices"]
    assert isinstance(device, dict)
    return device


def _assert_counted_once(client: Client, mib: int) -> None:
    device = _device(client)
    assert device["used_mib"] == mib
    assert device["reserved_mib"] == 0, "it is not reserved beside what the driver shows"
    assert device["foreign"] == []


def test_container_named_by_its_id_is_counted_once_and_evicted_after_its_lease(host: Host, client: Client) -> None:
    container, scope = _scope(0xA1)
    host.unit("alpha", f"{scope} {holding('alpha', 10000)}")
    host.consumer("alpha", 10000, f'container = "{container}"', 'evict = ["unit-stop"]')
    host.holder("beta", 20000)
    host.start()
    for _ in range(2):
        lease, _ = client.acquire("alpha")
        client.await_memory("alpha", 10000)
        _assert_counted_once(client, 10000)
        client.release(lease)
        assert client.consumer("alpha")["used_mib"] == 10000, "it stays the consumer's after the lease"
        client.use("beta", 20000)
        assert client.consumer("alpha")["residency"] == "unloaded"


def test_container_of_a_unit_is_found_by_its_client_and_again_after_a_restart(host: Host, client: Client) -> None:
    host.machine.write_file(DOCKER, CLIENT.format(command=holding("alpha", 10000)))
    host.machine.run(["chmod", "755", DOCKER])
    host.unit("alpha", f"{DOCKER} run --rm --cidfile /run/alpha.cid image")
    host.consumer("alpha", 10000)
    host.holder("beta", 20000)
    host.start()
    try:
        for _ in range(2):
            lease, _ = client.acquire("alpha")
            client.await_memory("alpha", 10000)
            _assert_counted_once(client, 10000)
            client.release(lease)
            client.use("beta", 20000)
    finally:
        host.machine.systemctl("stop", "alpha.service", check=False)
        host.machine.remove(DOCKER, "/run/alpha.cid")


def test_server_in_a_container_without_a_unit_is_unloaded_by_its_route(host: Host, client: Client) -> None:
    container, scope = _scope(0xA2)
    host.unit("engine", f"{scope} {process('alpha', 10000)} --anonymous --port=8124")
    host.consumer(
        "alpha",
        10000,
        f'container = "{container[:40]}"',
        'url = "http://127.0.0.1:8124"',
        'health = { path = "/health", loaded = "/model_loaded" }',
        'load = { path = "/api/admin/load" }',
        'unload = { path = "/api/admin/unload" }',
        'evict = ["http"]',
        unit=False,
    )
    host.holder("beta", 20000)
    host.start()
    host.machine.systemctl("start", "engine.service")
    connect = ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8124"]
    host.machine.wait_until(lambda: host.machine.run(connect, check=False).returncode == 0, "the server listens")
    lease, _ = client.acquire("alpha")
    client.await_memory("alpha", 10000)
    _assert_counted_once(client, 10000)
    client.release(lease)
    client.use("beta", 20000)
    assert host.machine.show("engine.service", "ActiveState") == "active"


def test_container_of_another_program_stays_foreign_and_is_named(host: Host, client: Client) -> None:
    container, scope = _scope(0xC0FFEE << 232)
    host.unit("engine", f"{scope} {holding('other', 8000)}")
    host.holder("beta", 20000)
    host.start()
    host.machine.systemctl("start", "engine.service")
    host.machine.wait_until(lambda: bool(_device(client)["foreign"]), "the container's memory shows")
    (process_entry,) = _device(client)["foreign"]
    assert process_entry["container"] == container[:12]
    name, message = client.refusal("Acquire", "beta", "{'timeout_usec': <uint64 2000000>}")
    assert (name, f"container {container[:12]}" in message) == ("org.gpumand1.Error.InsufficientVram", True), message
