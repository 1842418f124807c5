"""whisper-server does not report whether it is working: connections of its clients show it."""

from __future__ import annotations

import json

from tests.e2e.client import Client
from tests.real.host import RealHost
from tests.real.plain_requests import PendingAcquire, transcription

PORT = 9231
OTHER_PORT = 9232


def test_an_eviction_waits_for_a_running_transcription(host: RealHost, client: Client) -> None:
    host.whisper("whisper", PORT)
    host.llama("chat", OTHER_PORT)
    host.start()
    host.serve("whisper.service", PORT)  # without a lease, so that nothing is reserved for it
    client.await_residency("whisper", "resident")
    with transcription(host, PORT) as work:
        host.machine.wait_until(
            lambda: host.logged("whisper", "processing 'noise.wav'"), "the transcription has started"
        )

        with PendingAcquire(host.machine, "chat") as acquire:
            answer = work.finish()
            _, grant = acquire.grant()

    assert json.loads(answer)["text"]
    assert grant["evicted"] == ["whisper"]
    # The answer alone is no proof: whisper-server finishes its work when it is stopped, up to TimeoutStopSec.
    (stopped_at,) = host.logged_at("whisper", "Stopping whisper.service")
    assert stopped_at >= work.answered_at


def test_an_idle_server_is_evicted_at_once(host: RealHost, client: Client) -> None:
    host.whisper("whisper", PORT)
    host.llama("chat", OTHER_PORT)
    host.start()
    client.release(client.acquire("whisper")[0])

    _, grant = client.acquire("chat", timeout_usec=10_000_000)

    assert grant["evicted"] == ["whisper"]
