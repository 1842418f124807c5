"""Which clients the gateway admits: API keys, other hosts, and pages of listed web sites."""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gpumand.config.gateway_keys import hash_of
from tests.integration.gateway.entrance import Entrance, entrance
from tests.integration.gateway.live_gateway import free_port

USER, BATCH = "gpumand-user", "gpumand-batch"
CHAT = {"model": "qwen3", "messages": []}


@asynccontextmanager
async def guarded(folder: Path, keys: str = "", **more: Any) -> AsyncIterator[Entrance]:
    """An entrance with two API keys: user may use everything, batch only ollama."""
    file = folder / "keys.toml"
    text = f'[keys.user]\nsha256 = "{hash_of(USER)}"\npriority = 20\nevict = true\n'
    file.write_text(text + f'[keys.batch]\nsha256 = "{hash_of(BATCH)}"\nconsumers = ["ollama"]\n', encoding="utf-8")
    async with entrance(folder, keys=f'keys_file = "{file}"\n{keys}', **more) as made:
        await made.get("/v1/models", **bearer(USER))
        yield made


def bearer(secret: str) -> dict[str, Any]:
    return {"headers": {"Authorization": f"Bearer {secret}"}}


async def test_wrong_keys_are_refused_and_right_ones_never_reach_a_service(tmp_path: Path) -> None:
    password = base64.b64encode(f"anyone:{USER}".encode()).decode()
    async with guarded(tmp_path, keys="require_key = true") as made:
        missing, refusal = await made.post("/v1/chat/completions", CHAT)
        wrong, _ = await made.post("/v1/chat/completions", CHAT, **bearer("gpumand-other"))
        strange, _ = await made.post("/v1/chat/completions", CHAT, **bearer("ÿé"))
        anthropic, shape = await made.post("/v1/messages", CHAT, headers={"x-api-key": "x"})
        served = [
            (await made.post("/v1/chat/completions", CHAT, **bearer(USER)))[0],
            (await made.post("/v1/chat/completions", CHAT, headers={"x-api-key": USER}))[0],
            (await made.post("/v1/chat/completions", CHAT, headers={"Authorization": f"Basic {password}"}))[0],
        ]

    assert [missing, wrong, strange, anthropic] == [401, 401, 401, 401]
    assert (refusal["error"]["code"], shape["type"]) == ("key_missing", "error")
    assert served == [200, 200, 200]
    headers = [one for method, path, one in made.llama.seen if path == "/v1/chat/completions"]
    assert len(headers) == 3
    assert not any(name.lower() in ("authorization", "x-api-key") for one in headers for name in one)
    assert USER not in made.gateway.log


async def test_key_is_limited_to_its_consumers_in_requests_and_lists(tmp_path: Path) -> None:
    async with guarded(tmp_path) as made:
        refused, refusal = await made.post("/v1/completions", {"model": "qwen3"}, **bearer(BATCH))
        script, _ = await made.get("/c/llama/x", **bearer(BATCH))
        allowed, _ = await made.post("/v1/completions", {"model": "qwen3:8b"}, **bearer(BATCH))
        _, models = await made.get("/v1/models", **bearer(BATCH))
        local, _ = await made.post("/v1/completions", {"model": "qwen3"})

    assert (refused, script, allowed, local) == (404, 404, 200, 200)
    assert "qwen3:8b" in refusal["error"]["message"]
    assert "phi-4" not in refusal["error"]["message"]
    assert [one["id"] for one in models["data"]] == ["gemma3:latest", "qwen3:8b"]


async def test_other_hosts_need_a_key(tmp_path: Path) -> None:
    port = free_port()
    tables = f'[gateway.listeners.remote]\nlisten = "0.0.0.0:{port}"\nconsumer = "llama"\n'
    async with guarded(tmp_path, keys="allow_remote = true", tables=tables) as made:
        url = f"http://127.0.0.1:{port}/v1/models"
        async with made.session.get(url) as answer:
            without = answer.status, answer.headers.get("WWW-Authenticate", "")
        async with made.session.get(url, **bearer(USER)) as answer:
            with_key = answer.status
        async with made.session.get(url, **bearer(BATCH)) as answer:
            other = answer.status

    assert without == (401, 'Basic realm="gpumand", charset="UTF-8"')
    assert (with_key, other) == (200, 403)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("", "is reachable from other hosts"),
        ("allow_remote = true", "requires API keys"),
        ("require_key = true", "requires API keys"),
        ('keys_file = "/nonexistent/keys.toml"', "cannot be read"),
    ],
)
async def test_gateway_that_others_could_use_without_a_key_does_not_start(
    tmp_path: Path, keys: str, message: str
) -> None:
    file = tmp_path / "gateway.toml"
    text = f'[gateway]\n{keys}\n[gateway.listeners.a]\nlisten = "0.0.0.0:{free_port()}"\n'
    file.write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "gpumand.gateway", "--config", str(file), "--bus-address", "unix:path=/none"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, log = await process.communicate()

    assert process.returncode == 78
    assert message in log.decode()


async def test_priority_of_a_key_is_that_of_its_requests(tmp_path: Path) -> None:
    async with guarded(tmp_path) as made:
        lease = await made.block()
        waiting = asyncio.create_task(made.post("/v1/completions", {"model": "qwen3"}, **bearer(USER)))
        await made.wait_for_queue()
        (entry,) = (await made.control.status())["queue"]
        await made.control.release(lease)
        status, _ = await waiting

    assert (entry["priority"], status) == (20, 200)
    assert "user" in entry["reason"]


async def test_service_gets_its_own_key(tmp_path: Path) -> None:
    (tmp_path / "service.key").write_text("its-own\n", encoding="utf-8")
    async with guarded(tmp_path, llama_keys=f'key_file = "{tmp_path}/service.key"') as made:
        status, _ = await made.post("/v1/chat/completions", CHAT, **bearer(USER))

    assert status == 200
    assert made.llama.seen[-1][2]["Authorization"] == "Bearer its-own"


async def test_page_of_a_listed_web_site_may_read_answers(tmp_path: Path) -> None:
    origin = "http://ui.lan:3000"
    preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    async with guarded(tmp_path, keys=f'origins = ["{origin}"]\nrequire_key = true') as made:
        url = f"{made.url}/v1/chat/completions"
        async with made.session.options(url, headers=preflight) as answer:
            allowed = answer.status, answer.headers.get("Access-Control-Allow-Origin")
        async with made.session.options(url, headers=preflight | {"Origin": "http://evil.example"}) as answer:
            foreign = answer.status, answer.headers.get("Access-Control-Allow-Origin")
        async with made.session.post(url, json=CHAT, headers={"Origin": origin}) as answer:
            refused = answer.status, answer.headers.get("Access-Control-Allow-Origin")
        async with made.session.post(
            url, json=CHAT, headers={"Origin": origin, "Authorization": f"Bearer {USER}"}
        ) as answer:
            served = answer.status, answer.headers.get("Access-Control-Allow-Origin")
        async with made.session.get(f"{made.url}/v1/models", **bearer(USER)) as answer:
            without = answer.status, answer.headers.get("Access-Control-Allow-Origin")

    assert allowed == (204, origin)
    assert foreign == (403, None)
    assert refused == (401, origin)
    assert served == (200, origin)
    assert without == (200, None)


async def test_get_requests_change_nothing(tmp_path: Path) -> None:
    async with guarded(tmp_path) as made:
        for path in (
            "/api/delete",
            "/api/pull",
            "/v1/chat/completions?model=qwen3",
            "/gateway/v1/consumers/llama/load",
        ):
            async with made.session.get(made.url + path) as answer:
                assert answer.status >= 400, path
        assert not (await made.control.status())["leases"]
