"""A llama-server that sleeps when idle (--sleep-idle-seconds): gpumand neither keeps it awake nor wakes it."""

from __future__ import annotations

import pytest

from tests.e2e.client import Client
from tests.real.host import ASLEEP_MIB, RealHost
from tests.real.plain_requests import Stream

PORT = 9211
OTHER_PORT = 9212
LARGE_PORT = 9213
IDLE_SEC = 2
PROBES = 8

FALLS_ASLEEP = "server is entering sleeping state"
WAKES = "server is exiting sleeping state"
"""llama-server logs these."""


@pytest.fixture(autouse=True)
def sleeper(host: RealHost) -> None:
    """A server that was used once and sleeps now, and two other consumers: one does not fit even then."""
    host.llama("chat", PORT, f"--sleep-idle-seconds {IDLE_SEC}")
    host.whisper("whisper", OTHER_PORT)
    host.llama("large", LARGE_PORT)
    host.start()
    host.client.release(host.client.acquire("chat")[0])
    host.machine.wait_until(lambda: host.logged("chat", FALLS_ASLEEP), "the server falls asleep", 20)


def test_health_checks_do_not_wake_it(host: RealHost) -> None:
    before = host.tcp_segments()
    enough = before + 2 * PROBES  # at least a request and a response each
    host.machine.wait_until(lambda: host.tcp_segments() >= enough, "the daemon has checked its health", 30)
    assert (host.logged("chat", FALLS_ASLEEP), host.logged("chat", WAKES)) == (1, 0)


def test_its_memory_counts_as_free(host: RealHost, client: Client) -> None:
    host.machine.wait_until(lambda: client.consumer("chat")["used_mib"] <= ASLEEP_MIB, "its memory is free")

    _, grant = client.acquire("whisper")

    assert grant["evicted"] == []
    assert host.logged("chat", WAKES) == 0


def test_it_can_be_acquired(host: RealHost, client: Client) -> None:
    lease, _ = client.acquire("chat")
    with Stream(host, PORT) as stream:
        stream.await_tokens()
    assert lease in client.leases()


def test_an_eviction_of_its_rest_does_not_wake_it(host: RealHost, client: Client) -> None:
    _, grant = client.acquire("large")
    assert grant["evicted"] == ["chat"]
    assert host.logged("chat", WAKES) == 0
