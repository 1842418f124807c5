"""Consumers whose memory the driver does not show in a unit of their own: containers, and models in one unit."""

from __future__ import annotations

from tests.e2e.client import Client
from tests.e2e.host import Host, holding, process


def _container(host: Host, name: str, mib: int, number: int) -> None:
    """A unit that is only the ``docker run`` of a container: its process runs in a scope of the container manager."""
    scope = f"docker-{number:064x}.scope"
    host.unit(name, f"/usr/bin/systemd-run --scope --quiet --collect --unit={scope} {holding(name, mib)}")
    host.consumer(name, mib)


def _foreign_mib(client: Client) -> int:
    (device,) = client.status()["devices"]
    return int(device["used_mib"])


def test_services_in_containers_take_turns_without_waiting_for_reservations(host: Host, client: Client) -> None:
    _container(host, "alpha", 10000, 1)
    _container(host, "beta", 16000, 2)
    host.start()
    for name, mib in (("alpha", 10000), ("beta", 16000), ("alpha", 10000)):
        lease, grant = client.acquire(name)
        assert grant["waited_usec"] < 10e6, grant
        host.machine.wait_until(lambda mib=mib: _foreign_mib(client) == mib, f"{name} has loaded")  # type: ignore[misc]
        client.release(lease)

    assert client.consumer("alpha")["residency"] == "resident"
    assert "used_mib" not in client.consumer("alpha"), "unknown, and not 0"


def test_unit_of_two_models_is_stopped_only_while_neither_is_leased(host: Host, client: Client) -> None:
    host.unit("router", f"{process('router', 9000)} --loaded-at-start --anonymous --port=8123")
    for name, mib in (("one", 4000), ("two", 5000)):
        host.consumer(
            name,
            mib,
            'unit = "router.service"',
            'url = "http://127.0.0.1:8123"',
            'health = { path = "/health" }',
            unit=False,
        )
    host.holder("beta", 20000)
    host.start()
    host.machine.systemctl("start", "router.service")
    client.await_residency("two", "resident")
    lease, _ = client.acquire("two")
    host.machine.wait_until(lambda: client.consumer("one").get("shared_mib") == 9000, "the unit's memory is shared")
    assert client.consumer("one")["shared_with"] == ["two"]
    assert client.status()["devices"][0]["foreign"] == []

    name, message = client.refusal("Acquire", "beta", "{'timeout_usec': <uint64 2000000>}")
    assert (name, "two" in message) == ("org.gpumand1.Error.TimedOut", True), message
    assert host.machine.show("router.service", "ActiveState") == "active"

    client.release(lease)
    client.acquire("beta")
    assert host.machine.show("router.service", "ActiveState") == "inactive"
