"""Uploads at the address for all models: they pass as they came, with little memory, also while they wait."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.gateway.entrance import Entrance, entrance
from tests.integration.live import wait_until

MIB = 1024 * 1024
HEADERS = {"Content-Type": "multipart/form-data; boundary=xyz"}
MODEL = b'--xyz\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n'
FILE = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
END = b"\r\n--xyz--\r\n"


def form(size: int, *, model: bytes = b"org/phi-4", is_first: bool = False) -> Iterator[bytes]:
    """The parts of a form with a file of this size."""
    yield MODEL % model if is_first else b""
    yield FILE
    for number in range(size // (256 * 1024)):
        yield bytes([number % 251]) * (256 * 1024)
    yield b"\r\n" if not is_first else b""
    yield b"" if is_first else MODEL % model
    yield END[2:] if not is_first else END


def digest(parts: Iterator[bytes]) -> tuple[int, str]:
    size, found = 0, hashlib.sha256()
    for part in parts:
        size += len(part)
        found.update(part)
    return size, found.hexdigest()


async def sent(made: Entrance, parts: Iterator[bytes], *, length: int | None = None) -> tuple[int, Any]:
    async def body() -> AsyncIterator[bytes]:
        for part in parts:
            if part:
                yield part

    headers = HEADERS | ({} if length is None else {"Content-Length": str(length)})
    async with made.session.post(f"{made.url}/v1/audio/transcriptions", data=body(), headers=headers) as answer:
        return answer.status, await answer.json(content_type=None)


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("has_length", [True, False])
async def test_form_passes_as_it_came_with_the_model_before_or_after_the_file(
    door: Entrance, is_first: bool, has_length: bool
) -> None:
    for size in (0, 5 * MIB):
        wanted = digest(form(size, is_first=is_first))
        status, _ = await sent(door, form(size, is_first=is_first), length=wanted[0] if has_length else None)

        assert status == 200
        assert door.llama.uploads[-1] == wanted
    headers = door.llama.seen[-1][2]
    assert ("Content-Length" in headers) is has_length


@pytest.mark.parametrize("is_first", [True, False])
async def test_renamed_model_changes_one_field_of_a_form(tmp_path: Path, is_first: bool) -> None:
    tables = '[gateway.models]\n"whisper-1" = { consumer = "llama", as = "large-v3-turbo" }\n'
    async with entrance(tmp_path, tables=tables) as made:
        for size in (0, 3 * MIB):
            before = digest(form(size, model=b"whisper-1", is_first=is_first))
            status, _ = await sent(made, form(size, model=b"whisper-1", is_first=is_first), length=before[0])
            assert status == 200
            assert made.llama.uploads[-1] == digest(form(size, model=b"large-v3-turbo", is_first=is_first))


async def test_gigabyte_that_waits_is_not_kept_in_memory(door: Entrance) -> None:
    lease = await door.block()
    wanted = digest(form(1000 * MIB))
    waiting = asyncio.create_task(sent(door, form(1000 * MIB), length=wanted[0]))
    await wait_until("the upload waits", queued, door, within_sec=90)
    while_waiting = door.gateway.rss_mib()
    assert not list((door.host.folder / "gateway-state").glob(".upload-*"))
    await door.control.release(lease)
    status, _ = await waiting

    assert status == 200
    assert door.llama.uploads == [wanted]
    assert while_waiting < 80
    assert door.gateway.rss_mib() < 80


async def queued(made: Entrance) -> bool:
    return bool((await made.control.status())["queue"])


async def has_no_request(made: Entrance) -> bool:
    _, document = await made.get("/gateway/v1/requests")
    return not document["requests"]


async def test_uploads_that_do_not_fit_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    async with entrance(tmp_path, keys="spool_max_mib = 4") as made:
        await made.get("/v1/models")
        too_large, refusal = await sent(made, form(8 * MIB))
        first, _ = await sent(made, form(8 * MIB, is_first=True))
        again = [(await sent(made, form(3 * MIB)))[0] for _ in range(4)]

    assert (too_large, refusal["error"]["code"]) == (507, "spool_full")
    assert (first, again) == (200, [200] * 4)


async def test_missing_state_directory_refuses_large_forms_only(tmp_path: Path) -> None:
    async with entrance(tmp_path, has_state=False) as made:
        await made.get("/v1/models")
        large, refusal = await sent(made, form(8 * MIB))
        small, _ = await sent(made, form(512 * 1024))

    assert (large, refusal["error"]["code"], small) == (507, "spool_failed", 200)


async def test_invalid_forms_never_reach_a_service(door: Entrance) -> None:
    async def status(data: bytes, content_type: str = HEADERS["Content-Type"]) -> int:
        headers = {"Content-Type": content_type}
        async with door.session.post(f"{door.url}/v1/audio/transcriptions", data=data, headers=headers) as answer:
            return answer.status

    before = len(door.llama.seen) + len(door.ollama.seen)
    assert await status(b"".join(form(0)), "multipart/form-data") == 400
    assert await status(MODEL % (b"m" * 5000) + b"--xyz--") == 400
    assert await status(b"".join(form(0, model=b"nothing"))) == 404
    assert len(door.llama.seen) + len(door.ollama.seen) == before


async def test_client_that_leaves_frees_its_upload(tmp_path: Path) -> None:
    async with entrance(tmp_path, keys="spool_max_mib = 4") as made:
        await made.get("/v1/models")
        for _ in range(3):
            lease = await made.block()
            waiting = asyncio.create_task(sent(made, form(4 * MIB)))
            await wait_until("the upload waits", queued, made)
            waiting.cancel()
            # The next round must not take this upload for its own.
            await wait_until("the upload has gone", has_no_request, made)
            await made.control.release(lease)
        status, _ = await sent(made, form(4 * MIB))

    assert status == 200
