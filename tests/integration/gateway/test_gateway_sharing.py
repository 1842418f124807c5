"""How clients share a consumer, and which consumer an idle device gets back."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.integration.gateway.entrance import Entrance, entrance
from tests.integration.gateway.test_gateway_access import BATCH, USER, bearer, guarded
from tests.integration.live import wait_until


async def residency(made: Entrance, name: str) -> str:
    return str((await made.control.consumer(name))["residency"])


async def test_slots_limit_parallel_requests_and_are_divided_between_keys(tmp_path: Path) -> None:
    async with guarded(tmp_path, llama_keys="slots = 1") as made:
        made.gateway.host.folder.joinpath("keys.toml").write_text(
            (tmp_path / "keys.toml").read_text().replace('consumers = ["ollama"]\n', "").replace("priority = 20\n", "")
        )
        assert made.gateway.process is not None
        made.gateway.process.send_signal(1)

        async def batch_is_admitted() -> bool:
            return (await made.get("/c/llama/x", **bearer(BATCH)))[0] == 200

        await wait_until("the keys are taken over", batch_is_admitted)
        ended: list[str] = []

        async def work(secret: str) -> None:
            async with made.session.post(f"{made.url}/c/llama/slow?sec=0.4", json={}, **bearer(secret)) as answer:
                assert answer.status == 200
                await answer.read()
            ended.append(secret)

        batch = [asyncio.create_task(work(BATCH)) for _ in range(4)]
        await wait_until("the first request runs", runs, made)
        began = asyncio.get_running_loop().time()
        await asyncio.gather(work(USER), *batch)
        seconds = asyncio.get_running_loop().time() - began

    assert ended.index(USER) <= 2
    assert len(ended) == 5
    assert seconds > 1.5


async def runs(made: Entrance) -> bool:
    return any("/slow" in path for path in made.llama.paths())


async def test_idle_device_gets_its_home_consumer_back(tmp_path: Path) -> None:
    keys = 'home = ["llama"]\nhome_after_sec = 1\nlinger_sec = 0'
    async with entrance(tmp_path, keys=keys) as made:
        await made.post("/c/llama/v1/completions", {"model": "qwen3"})
        lease = await made.block()
        assert await residency(made, "llama") == "unloaded"
        await asyncio.sleep(3)
        assert await residency(made, "llama") == "unloaded"
        await made.control.release(lease)

        async def is_back() -> bool:
            return await residency(made, "llama") == "resident"

        await wait_until("the consumer at home is loaded", is_back)

        async def is_free() -> bool:
            return not (await made.control.status())["leases"]

        await wait_until("its lease is released", is_free)


async def test_home_consumers_that_do_not_fit_together_never_evict_each_other(tmp_path: Path) -> None:
    keys = 'home = ["llama", "ollama"]\nhome_after_sec = 1\nlinger_sec = 0'
    async with entrance(tmp_path, keys=keys, model_mib=14000) as made:

        async def is_home() -> bool:
            return await residency(made, "llama") == "resident"

        await wait_until("the first of the list is loaded", is_home)
        await made.post("/c/ollama/v1/completions", {"model": "qwen3:8b"})
        # Several idle times pass.
        await asyncio.sleep(5)

        assert (await residency(made, "llama"), await residency(made, "ollama")) == ("unloaded", "resident")
