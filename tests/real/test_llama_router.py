"""llama-server in router mode: requests of other clients load its models too, and models fall asleep when idle."""

from __future__ import annotations

from tests.e2e.client import Client
from tests.real.host import BROKEN_MODEL, RealHost
from tests.real.load_hold import LoadHold
from tests.real.plain_requests import PendingAcquire, Stream

PORT = 9201
UNIT = "router.service"
ENDED = "stopping model instance"
"""The router logs this when it ends the process of a model."""


def start(host: RealHost, **models: str) -> None:
    """Start a router and the daemon with each model as a consumer. Each value has further settings of the model."""
    host.router(PORT, **models)
    for model in models:
        host.routed(model, PORT)
    host.serve(UNIT, PORT)
    host.start()
    for model in models:
        host.client.await_residency(model, "unloaded")


def test_acquire_waits_for_a_load_that_another_client_has_started(host: RealHost, client: Client) -> None:
    start(host, alpha="")
    with LoadHold(host, UNIT, "alpha") as hold, Stream(host, PORT, "alpha") as stream:
        child = hold.caught()
        assert host.models(PORT) == {"alpha": "loading"}

        with PendingAcquire(host.machine, "alpha") as acquire:
            host.machine.wait_until(lambda: client.status()["queue"] or not acquire.waits, "the request is queued")
            hold.release()
            lease, grant = acquire.grant()

        stream.await_tokens()
        assert lease in client.leases()
        assert grant["evicted"] == []
        assert host.logged(UNIT, ENDED) == 0
        assert host.machine.alive({child}) == {child}


def test_a_model_that_another_client_has_loaded_is_granted_and_kept(host: RealHost, client: Client) -> None:
    host.probe_every(60)
    start(host, alpha="")
    with Stream(host, PORT, "alpha") as stream:
        stream.await_tokens()

        lease, grant = client.acquire("alpha")

        stream.await_tokens()
        assert lease in client.leases()
        assert grant["evicted"] == []
        assert host.logged(UNIT, ENDED) == 0


def test_a_sleeping_model_can_be_acquired(host: RealHost, client: Client) -> None:
    start(host, alpha="sleep-idle-seconds = 1")
    client.release(client.acquire("alpha")[0])
    host.machine.wait_until(lambda: host.models(PORT) == {"alpha": "sleeping"}, "the model sleeps")
    host.machine.wait_until(lambda: client.consumer("alpha")["residency"] != "resident", "the daemon has noticed it")

    lease, _ = client.acquire("alpha")

    assert lease in client.leases()
    with Stream(host, PORT, "alpha") as stream:
        stream.await_tokens()
    assert host.logged(UNIT, ENDED) == 0


def test_a_broken_model_fails_at_once_with_the_reason(host: RealHost, client: Client) -> None:
    start(host, alpha=f"model = {BROKEN_MODEL}")

    name, message = client.refusal("Acquire", "alpha", "{}")

    assert name == "org.gpumand1.Error.LoadFailed"
    assert "exit_code 1" in message
    assert "model loading error" in message


def test_evicting_one_model_for_another_keeps_the_router_running(host: RealHost, client: Client) -> None:
    start(host, alpha="", beta="")
    client.release(client.acquire("alpha")[0])
    router = host.machine.main_pid(UNIT)

    _, grant = client.acquire("beta")

    assert grant["evicted"] == ["alpha"]
    assert host.models(PORT) == {"alpha": "unloaded", "beta": "loaded"}
    assert host.machine.main_pid(UNIT) == router
