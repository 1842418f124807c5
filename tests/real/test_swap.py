"""Two real servers that do not fit into memory together, and clients that use both."""

from __future__ import annotations

import json

from tests.e2e.client import Client
from tests.e2e.machine import close
from tests.real.host import SHORT_SOUND, TOTAL_MIB, RealHost
from tests.real.plain_requests import PendingAcquire, Stream, transcription

CHAT_PORT = 9241
WHISPER_PORT = 9242
ROUNDS = 3


def start(host: RealHost) -> None:
    """Start the daemon with both servers as consumers. Neither server runs."""
    host.llama("chat", CHAT_PORT)
    host.whisper("whisper", WHISPER_PORT)
    host.start()


def test_a_stream_under_a_lease_continues_until_the_lease_is_released(host: RealHost, client: Client) -> None:
    start(host)
    chat, _ = client.acquire("chat")
    with Stream(host, CHAT_PORT) as stream, PendingAcquire(host.machine, "whisper") as wants_whisper:
        stream.await_tokens()
        host.machine.wait_until(lambda: client.status()["queue"], "the second request waits")
        stream.await_tokens(2000)
        assert wants_whisper.waits

        stream.close()
        client.release(chat)
        whisper, grant = wants_whisper.grant()

    assert grant["evicted"] == ["chat"]
    assert host.machine.show("chat.service", "ActiveState") == "inactive"
    with transcription(host, WHISPER_PORT) as work, PendingAcquire(host.machine, "chat") as wants_chat:
        assert json.loads(work.finish())["text"]
        assert wants_chat.waits
        client.release(whisper)
        _, grant = wants_chat.grant()
        assert grant["evicted"] == ["whisper"]
        with Stream(host, CHAT_PORT) as stream:
            stream.await_tokens()
    assert host.peak_mib() <= TOTAL_MIB


def test_all_requests_of_alternating_clients_are_answered_completely(host: RealHost) -> None:
    start(host)
    completion = json.dumps({"prompt": "Once", "n_predict": 200, "ignore_eos": True})
    chat = f"gpumanctl run chat -- curl --silent --fail http://127.0.0.1:{CHAT_PORT}/completion --data '{completion}'"
    form = f"--form file=@{SHORT_SOUND} --form response_format=json"
    whisper = f"gpumanctl run whisper -- curl --silent --fail http://127.0.0.1:{WHISPER_PORT}/inference {form}"
    rounds = [f"for _ in $(seq {ROUNDS}); do {one} && echo || exit 1; done" for one in (chat, whisper)]
    clients = [host.machine.start(["sh", "-c", script]) for script in rounds]
    try:
        answers = [one.communicate(timeout=50) for one in clients]
    finally:
        for one in clients:
            close(one)
    assert [one.returncode for one in clients] == [0, 0], answers
    chats, transcripts = ([json.loads(line) for line in printed.splitlines() if line] for printed, _ in answers)
    assert [one["tokens_predicted"] for one in chats] == [200] * ROUNDS
    assert len([one for one in transcripts if one["text"]]) == ROUNDS
    assert host.peak_mib() <= TOTAL_MIB
