"""Debian's own unit llama-server.service is a router unless its settings name a model."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.client import Client
from tests.real.host import LLAMA_MIB, PACKAGED_PORT, PACKAGED_UNIT, RealHost
from tests.real.plain_requests import PendingAcquire, Stream

WHISPER_PORT = 9222
MODEL = "llama"


def test_init_recognises_the_router(host: RealHost) -> None:
    host.packaged_router()
    host.serve(PACKAGED_UNIT, PACKAGED_PORT)

    text = host.machine.run(["gpumanctl", "init", "--source=none"]).stdout

    consumers = tomllib.loads(text)["consumers"]
    found = [one for one in consumers.values() if one["unit"] == PACKAGED_UNIT]
    assert {one["preset"] for one in found} == {"llama-cpp-router"}
    assert {one["model"] for one in found} == {MODEL}
    assert {one["url"] for one in found} == {f"http://127.0.0.1:{PACKAGED_PORT}"}


@contextmanager
def streaming(host: RealHost) -> Iterator[Stream]:
    """Start the packaged unit, the daemon, and a stream of its model. A second consumer, "whisper", does not fit."""
    host.whisper("whisper", WHISPER_PORT)
    host.serve(PACKAGED_UNIT, PACKAGED_PORT)
    host.start()
    with Stream(host, PACKAGED_PORT, MODEL) as stream:
        stream.await_tokens()
        yield stream


def test_an_eviction_waits_for_a_running_completion(host: RealHost, client: Client) -> None:
    host.packaged_router()
    host.routed(MODEL, PACKAGED_PORT, unit=PACKAGED_UNIT)
    with streaming(host) as stream:
        client.await_residency(MODEL, "resident")
        with PendingAcquire(host.machine, "whisper") as acquire:
            host.machine.wait_until(lambda: client.status()["queue"], "the request waits")
            stream.await_tokens(2000)
            assert acquire.waits

            stream.close()
            _, grant = acquire.grant()

    assert grant["evicted"] == [MODEL]
    assert host.machine.show(PACKAGED_UNIT, "ActiveState") == "active"


def test_an_eviction_waits_even_with_the_preset_of_a_single_server(host: RealHost, client: Client) -> None:
    host.packaged_router()
    where = [f'unit = "{PACKAGED_UNIT}"', f'url = "http://127.0.0.1:{PACKAGED_PORT}"']
    host.consumer("guessed", LLAMA_MIB, 'preset = "llama-server"', *where, unit=False)
    with streaming(host) as stream:
        client.await_residency("guessed", "resident")
        with PendingAcquire(host.machine, "whisper") as acquire:
            host.machine.wait_until(lambda: client.status()["queue"], "the request waits")
            stream.await_tokens(2000)
            assert acquire.waits
            findings = host.machine.run(["gpumanctl", "doctor"], check=False).stdout

            stream.close()
            _, grant = acquire.grant()

    assert grant["evicted"] == ["guessed"]
    assert "/slots" in findings
    assert "400" in findings
