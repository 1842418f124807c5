"""Requests that two programs may read differently never reach a service, with both parsers of aiohttp."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.gateway.live_gateway import LiveGateway, live_gateway
from tests.integration.gateway.probes import CLOSE, PROBES, VALID, head
from tests.integration.gateway.recording_service import Recorded, recording_service
from tests.integration.live import DEADLINE_SEC, bare_host

PURE = "AIOHTTP_NO_EXTENSIONS"


@dataclass
class Recording:
    """A gateway in front of a recording service."""

    gateway: LiveGateway
    service: Recorded

    async def answer(self, sent: bytes) -> bytes:
        """Send bytes, half-close the connection once they were answered, and read to its end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.ports["fake"])
        try:
            async with asyncio.timeout(DEADLINE_SEC):
                writer.write(sent)
                return await reader.read()
        finally:
            writer.close()


@pytest.fixture(params=["C parser", "Python parser"])
async def recording(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Recording]:
    if request.param == "Python parser":
        monkeypatch.setenv(PURE, "1")
    async with bare_host(tmp_path) as host, recording_service() as service:
        host.configure(
            f'[consumers.fake]\nvram_resident_mib = 1000\nurl = "{service.url}"\nunload = {{ path = "/u" }}\n'
        )
        await host.start()
        async with live_gateway(host, {"fake": ""}) as gateway:
            yield Recording(gateway, service)


def statuses(answer: bytes) -> list[int]:
    """The statuses of all answers on a connection."""
    return [int(line.split(b" ")[1]) for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.")]


def test_variable_selects_the_python_parser() -> None:
    module = "from aiohttp import http_parser as p; print(p.HttpRequestParser is p.HttpRequestParserPy)"
    said = [
        subprocess.run([sys.executable, "-c", module], check=True, capture_output=True, text=True, env=variables).stdout
        for variables in ({**os.environ, PURE: "1"}, {**os.environ, PURE: ""})
    ]
    assert said == ["True\n", "False\n"]


async def test_probes_are_answered_400_and_never_reach_the_service(recording: Recording) -> None:
    answers = await asyncio.gather(*(recording.answer(sent) for sent in PROBES.values()))
    found = {name: statuses(answer) for name, answer in zip(PROBES, answers, strict=True)}

    assert found == {name: [400] for name in PROBES}
    assert recording.service.requests == []
    assert recording.service.begun == []
    assert recording.service.errors == []


async def test_valid_bodies_reach_the_service_once_and_whole(recording: Recording) -> None:
    answers = [await recording.answer(sent) for sent in VALID.values()]

    assert [statuses(one) for one in answers] == [[200]] * len(VALID)
    assert recording.service.requests == [("POST", "/probe", b"hello")] * len(VALID)
    assert recording.service.errors == []


async def test_body_that_breaks_while_it_is_passed_on_is_the_client_s_fault(recording: Recording) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", recording.gateway.ports["fake"])
    writer.write(head("Transfer-Encoding: chunked", first="POST /v1/images/edits HTTP/1.1") + b"5\r\nhello\r\n")
    async with asyncio.timeout(DEADLINE_SEC):
        while not recording.service.begun:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.02)
    writer.write(b"5\nhello\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = await reader.read()
    writer.close()
    after = await recording.answer(head(CLOSE, first="GET /after HTTP/1.1"))

    assert statuses(answer) == [400]
    assert b'"code":"invalid_body"' in answer
    assert statuses(after) == [200]
    assert recording.service.begun == ["/v1/images/edits", "/after"]
    assert recording.service.requests == [("GET", "/after", b"")]
