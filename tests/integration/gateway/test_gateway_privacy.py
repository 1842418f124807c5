"""Nothing of a prompt or of a body is logged, shown or kept, by the gateway or by gpumand, whatever becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.gateway.entrance import Entrance, entrance
from tests.integration.gateway.live_gateway import free_port
from tests.integration.http.raw import exchange
from tests.integration.live import wait_until

MARKER = "Zaphod-4711-secret-words"
PROMPT = [{"role": "user", "content": MARKER}]
FORM = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n%b\r\n'
MODEL = b'--xyz\r\nContent-Disposition: form-data; name="model"\r\n\r\norg/phi-4\r\n--xyz--\r\n'
UPLOAD = FORM % (MARKER.encode() * 200_000) + MODEL
"""The model comes after a file that is too large for the memory, so that the body goes to a temporary file."""

URLENCODED = {"Content-Type": "application/x-www-form-urlencoded"}
MULTIPART = {"Content-Type": "multipart/form-data; boundary=xyz"}
VIEWS = ("state", "requests", "listeners", "history", "plan?consumer=llama")


@contextlib.asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[tuple[Entrance, str]]:
    """An entrance, and the address of a listener for jobs; the log of the gateway has all levels."""
    port = free_port()
    jobs = f'[gateway.listeners.jobs]\nlisten = "127.0.0.1:{port}"\nconsumer = "llama"\npreset = "comfyui"\n'
    async with entrance(folder, keys="patience_sec = 0.5\ndrip_sec = 0.5\naccess_log = true", tables=jobs) as made:
        await made.get("/v1/models")
        yield made, f"http://127.0.0.1:{port}"


async def status_of(made: Entrance, url: str, **more: Any) -> int:
    async with made.session.post(url, **more) as answer:
        await answer.read()
        return answer.status


def requests_that_wait(made: Entrance, jobs: str) -> list[asyncio.Task[int]]:
    """Requests that end well; each carries the marker in its body, and one in its query too."""
    chat = {"model": "qwen3", "messages": PROMPT}
    sent: list[tuple[str, dict[str, Any]]] = [
        (f"{made.url}/v1/chat/completions", {"json": chat}),
        (f"{made.url}/v1/chat/completions", {"json": chat | {"stream": True}}),
        (f"{made.url}/v1/messages", {"json": chat | {"stream": True, "system": MARKER}}),
        (f"{made.url}/api/generate", {"json": {"model": "qwen3:8b", "prompt": MARKER}}),
        (f"{made.url}/v1/audio/transcriptions", {"data": io.BytesIO(UPLOAD), "headers": MULTIPART}),
        (f"{made.url}/c/llama/form?text={MARKER}", {"data": f"prompt={MARKER}", "headers": URLENCODED}),
        (f"{jobs}/prompt", {"json": {"prompt": {"1": {"inputs": {"text": MARKER}}}}}),
    ]
    return [asyncio.create_task(status_of(made, url, **more)) for url, more in sent]


async def send_questions_and_refused_requests(made: Entrance) -> list[int]:
    """Send a question about a model, and requests that are refused; returns the statuses."""
    url = f"{made.url}/v1/completions"
    bodies = (f'{{"model": "qwen3", "model": "x", "prompt": "{MARKER}"}}', f'["{MARKER}"]', MARKER)
    statuses = [await status_of(made, f"{made.url}/api/show", json={"model": "gemma3", "system": MARKER})]
    statuses += [await status_of(made, url, data=body) for body in bodies]
    no_boundary = {"Content-Type": "multipart/form-data"}
    upload = FORM % MARKER.encode() + MODEL
    statuses.append(await status_of(made, f"{made.url}/v1/audio/transcriptions", data=upload, headers=no_boundary))
    return statuses


HEAD = "POST /c/llama/echo HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
INVALID = {
    "size of a chunk": f"{HEAD}Transfer-Encoding: chunked\r\n\r\n{MARKER}\r\n{MARKER}\r\n0\r\n\r\n",
    "end of a chunk": f"{HEAD}Transfer-Encoding: chunked\r\n\r\n3\r\nabc{MARKER}\r\n0\r\n\r\n",
    "trailer": f"{HEAD}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n{MARKER}\r\n\r\n",
    "target": f"GET /c/llama/echo?text={MARKER}\x01 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "body after a request without one": f"GET /c/llama/echo HTTP/1.1\r\nHost: localhost\r\n\r\n{MARKER}\r\n\r\n",
    "header": f"{HEAD}Content-Length: 0\r\n{MARKER}\r\n\r\n",
}


async def views(made: Entrance) -> dict[str, str]:
    """All that the gateway and gpumand show, by place."""
    shown = {"GetStatus": repr(await made.control.status())}
    paths = (*(f"/gateway/v1/{one}" for one in VIEWS), "/metrics")
    for path in paths:
        async with made.session.get(made.url + path) as answer:
            assert answer.status == 200, path
            shown[path] = await answer.text()
    return shown


def files(folder: Path) -> dict[str, str]:
    """The content of all files below a folder: logs, state of both programs, configuration."""
    found: dict[str, str] = {}
    for one in folder.rglob("*"):
        # Some are replaced while the programs work.
        with contextlib.suppress(FileNotFoundError):
            if one.is_file():
                found[str(one.relative_to(folder))] = one.read_bytes().decode("latin-1")
    return found


def places(texts: dict[str, str]) -> list[str]:
    """Where the marker is."""
    return [
        f"{name}: {text[max(0, text.index(MARKER) - 200) :][:300]}" for name, text in texts.items() if MARKER in text
    ]


async def test_prompts_and_bodies_are_neither_logged_nor_shown_nor_kept(tmp_path: Path) -> None:
    async with watched(tmp_path) as (made, jobs):
        lease = await made.block()
        waiting = requests_that_wait(made, jobs)

        async def all_wait() -> bool:
            _, shown = await made.get("/gateway/v1/requests")
            return sum(bool(one["waits_for"]) for one in shown["requests"]) == len(waiting)

        await wait_until("the requests wait", all_wait)
        while_waiting = places(await views(made) | files(tmp_path))
        refused = await send_questions_and_refused_requests(made)
        await made.control.release(lease)
        served = await asyncio.gather(*waiting)
        gone = await status_of(made, f"{made.url}/c/llama/gone", json={"prompt": MARKER})
        afterwards = places(await views(made) | files(tmp_path))
        received = json.dumps(made.llama.bodies + made.ollama.bodies)
    at_the_end = places(files(tmp_path))

    assert while_waiting == afterwards == at_the_end == []
    assert (set(served), refused, gone) == ({200}, [200, 400, 400, 400, 400], 502)
    # The marker was sent, and the files are those in which it would be.
    assert received.count(MARKER) >= 4
    assert any(size > 4_000_000 for size, _ in made.llama.uploads)
    assert "POST /gone" in made.gateway.log
    assert "DEBUG" in made.gateway.log
    assert {"gateway.log", "daemon.log", "gateway-state/lists.json"} <= files(tmp_path).keys()


@pytest.mark.parametrize("part", INVALID)
async def test_invalid_http_is_refused_without_a_word_of_it_in_the_log(tmp_path: Path, part: str) -> None:
    async with watched(tmp_path) as (made, _):
        address = ("127.0.0.1", int(made.url.rpartition(":")[2]))
        answer = await exchange(address, INVALID[part].encode())
        shown = places(await views(made))

    assert answer.startswith(b"HTTP/1."), answer
    assert [*shown, *places(files(tmp_path))] == []
