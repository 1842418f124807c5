"""Consumers that are units with HTTP routes."""

from __future__ import annotations

from tests.e2e.client import Client
from tests.e2e.host import Host


def test_load_route_is_called_after_the_unit_has_started(host: Host, client: Client) -> None:
    host.server("alpha", 10000, 9001)
    host.start()
    _, grant = client.acquire("alpha")
    assert (grant["loaded"], grant["endpoint"]) == (True, "http://127.0.0.1:9001")
    client.await_memory("alpha", 10000)


def test_unload_route_frees_memory_and_leaves_the_unit_running(host: Host, client: Client) -> None:
    host.server("alpha", 10000, 9001)
    host.holder("beta", 16000)
    host.start()
    client.use("alpha", 10000)
    _, grant = client.acquire("beta")
    assert grant["evicted"] == ["alpha"]
    assert host.machine.show("alpha.service", "ActiveState") == "active"
    assert client.consumer("alpha")["residency"] == "unloaded"


def test_unload_route_that_frees_nothing_is_followed_by_a_unit_stop(host: Host, client: Client) -> None:
    host.server("alpha", 10000, 9001, "--fault=lying-unload")
    host.holder("beta", 16000)
    host.start()
    client.use("alpha", 10000)
    _, grant = client.acquire("beta")
    assert grant["evicted"] == ["alpha"]
    assert host.machine.show("alpha.service", "ActiveState") == "inactive"
    assert client.status()["stats"]["evictions"] == 1


def test_model_unloaded_outside_gpumand_is_noticed(host: Host, client: Client) -> None:
    host.server("alpha", 10000, 9001)
    host.start()
    client.use("alpha", 10000)
    post = "import urllib.request as u; u.urlopen(u.Request('http://127.0.0.1:9001/api/admin/unload', method='POST'))"
    host.machine.run(["python3", "-c", post])
    client.await_residency("alpha", "unloaded")
