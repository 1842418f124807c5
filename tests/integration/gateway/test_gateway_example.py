"""The configuration in examples/gateway-routes.toml: one address with a path for each kind of work."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp

from gpumand.gateway.entrance_config import GATEWAY
from tests.integration.gateway.live_gateway import LiveGateway, free_port, http
from tests.integration.gateway.model_service import model_service
from tests.integration.live import bare_host

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "gateway-routes.toml"


class ExampleGateway(LiveGateway):
    """A gateway with the example as its configuration, at another port."""

    def configure(self) -> None:
        text = EXAMPLE.read_text(encoding="utf-8").replace("127.0.0.1:8770", f"127.0.0.1:{self.ports[GATEWAY]}")
        self.file.write_text(text, encoding="utf-8")


async def test_each_path_reaches_its_consumer_although_only_one_fits(tmp_path: Path) -> None:
    names = ("llm", "tts", "stt", "image")
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(bare_host(tmp_path))
        session = await stack.enter_async_context(http())
        services = {name: await stack.enter_async_context(model_service(name)) for name in names}
        table = 'vram_resident_mib = 20000\nunload = { path = "/unload" }'
        host.configure("\n".join(f'[consumers.{n}]\nurl = "{one.url}"\n{table}' for n, one in services.items()))
        await host.start()
        gateway = ExampleGateway(host, {}, "")
        gateway.ports[GATEWAY] = free_port()
        await gateway.start()
        stack.push_async_callback(gateway.end)

        async def status(path: str, **body: object) -> int:
            async with session.post(gateway.url(GATEWAY) + path, **body) as answer:  # type: ignore[arg-type]
                await answer.read()
                return answer.status

        form = aiohttp.FormData()
        form.add_field("file", b"x" * 100_000, filename="speech.wav")
        found = await asyncio.gather(
            status("/v1/llm", json={"model": "any", "messages": []}),
            status("/v1/tts", json={"input": "hello"}),
            status("/v1/stt", data=form),
            status("/v1/image", json={"prompt": "a cat"}),
        )

    assert list(found) == [200, 200, 200, 200]
    used = {name: [path for path in one.paths() if path.startswith("POST /v1/")] for name, one in services.items()}
    assert used == {
        "llm": ["POST /v1/chat/completions"],
        "tts": ["POST /v1/audio/speech"],
        "stt": ["POST /v1/audio/transcriptions"],
        "image": ["POST /v1/images/generations"],
    }
