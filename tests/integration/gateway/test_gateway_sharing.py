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


async def test_reserved_slot_is_free_for_an_interactive_key_while_others_wait_for_theirs(tmp_path: Path) -> None:
    async with guarded(tmp_path, llama_keys="slots = 2\nreserved_slots = 1") as made:
        file, text = tmp_path / "keys.toml", (tmp_path / "keys.toml").read_text()
        batch = text.replace('consumers = ["ollama"]\n', "").replace("priority = 20\n", "")
        file.write_text(batch.replace("[keys.user]\n", "[keys.user]\ninteractive = true\n"))
        assert made.gateway.process is not None
        made.gateway.process.send_signal(1)

        async def is_admitted() -> bool:
            return (await made.get("/c/llama/x", **bearer(BATCH)))[0] == 200

        await wait_until("the keys are taken over", is_admitted)

        def work(secret: str, path: str) -> asyncio.Task[int]:
            return asyncio.create_task(status(made, f"{made.url}/c/llama{path}", secret))

        async def reaches(path: str) -> bool:
            return f"POST {path}" in made.llama.paths()

        async def all_are_known(count: int) -> bool:
            return len((await made.get("/gateway/v1/requests", **bearer(USER)))[1]["requests"]) == count

        first = work(BATCH, "/slow?sec=600&first")
        await wait_until("the first request runs", reaches, "/slow?sec=600&first")
        second = work(BATCH, "/slow?sec=0&second")
        await wait_until("the second request waits", all_are_known, 2)

        assert await work(USER, "/slow?sec=0&chat") == 200
        assert not await reaches("/slow?sec=0&second"), "only interactive keys may use the reserved slot"

        chat = work(USER, "/slow?sec=600&chat")
        await wait_until("the reserved slot is used", reaches, "/slow?sec=600&chat")
        more = work(USER, "/slow?sec=0&more")
        await wait_until("a third request waits", all_are_known, 4)
        assert not await reaches("/slow?sec=0&more"), "both slots are in use"
        first.cancel()
        assert await more == 200
        assert not second.done()
        chat.cancel()
        assert await second == 200
        await asyncio.gather(first, chat, return_exceptions=True)


async def status(made: Entrance, url: str, secret: str) -> int:
    async with made.session.post(url, json={}, **bearer(secret)) as answer:
        await answer.read()
        return answer.status


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
