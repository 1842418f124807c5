"""The client of the container helper, with a real helper on real sockets and an engine without containers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gpumand.containers.client import HelperContainers
from gpumand.ports import ContainerFailed
from gpumand.root_helpers.container_engine import Engine
from gpumand.root_helpers.containers import Operations
from gpumand.testing.container_engine import FakeContainer, FakeEngine
from tests.integration.containers.helper_server import HelperServer


class Chain:
    """Client, helper and engine."""

    def __init__(self, folder: Path) -> None:
        self.engine = FakeEngine()
        self.comfyui = FakeContainer("comfyui")
        self.engine.containers.append(self.comfyui)
        self.engine_path, self.path = str(folder / "docker.sock"), str(folder / "helper.sock")
        config = folder / "gpumand.toml"
        config.write_text('[consumers.a]\ncontainer = "comfyui"\n[consumers.b]\ncontainer = "absent"\n')
        config.chmod(0o644)
        operations = Operations(lambda: [config], [Engine("docker", self.engine_path)], os.getuid())
        self._server = HelperServer(self.path, operations, {os.getuid()})
        self.client = HelperContainers(self.path, settle_sec=0.01, restart_sec=0.1)

    async def open(self) -> None:
        await self.engine.listen(self.engine_path)
        self._server.start()

    async def close(self) -> None:
        await asyncio.to_thread(self._server.end)
        await self.engine.close()

    async def failure(self, verb: str, name: str = "comfyui", timeout_sec: float = 30.0) -> ContainerFailed:
        with pytest.raises(ContainerFailed) as failed:
            await getattr(self.client, verb)(name, timeout_sec)
        return failed.value


@pytest.fixture
async def chain(tmp_path: Path) -> AsyncIterator[Chain]:
    one = Chain(tmp_path)
    await one.open()
    yield one
    await one.close()


async def test_container_starts_and_stops(chain: Chain) -> None:
    await chain.client.start("comfyui", 30.0)
    state = await chain.client.inspect("comfyui")
    assert (state.engine, state.name, state.running, state.pid) == ("docker", "comfyui", True, 4321)

    await chain.client.start("comfyui", 30.0)  # it runs already
    assert chain.comfyui.runs == 1
    await chain.client.stop("comfyui", 30.0)
    assert (await chain.client.inspect("comfyui")).running is False
    assert [one.name for one in await chain.client.list()] == ["comfyui"]


async def test_runs_are_told_apart_by_their_start(chain: Chain) -> None:
    await chain.client.start("comfyui", 30.0)
    first = (await chain.client.inspect("comfyui")).run_id
    await chain.client.stop("comfyui", 30.0)
    await chain.client.start("comfyui", 30.0)
    assert (await chain.client.inspect("comfyui")).run_id != first


async def test_container_that_comes_back_after_its_stop_is_a_failure_with_its_policy(chain: Chain) -> None:
    chain.comfyui.restart_policy, chain.comfyui.comes_back = "always", True
    await chain.client.start("comfyui", 30.0)
    failed = await chain.failure("stop")
    assert failed.reason == "restarted"
    assert "its restart policy is always. Change it: docker update --restart=no comfyui" in str(failed)


async def test_container_that_its_unit_starts_again_names_the_unit(chain: Chain) -> None:
    chain.comfyui.labels = {"PODMAN_SYSTEMD_UNIT": "comfyui.service"}
    chain.client = HelperContainers(chain.path, settle_sec=0.01, restart_sec=30.0)  # the new run ends the wait
    await chain.client.start("comfyui", 30.0)
    chain.comfyui.stopped = lambda: asyncio.get_running_loop().call_later(0.05, chain.comfyui.begin)
    failed = await chain.failure("stop")
    assert (failed.reason, 'Set unit = "comfyui.service"' in str(failed)) == ("restarted", True)


async def test_stop_without_effect_is_a_failure(chain: Chain) -> None:
    chain.comfyui.stays = True
    await chain.client.start("comfyui", 30.0)
    assert "did not stop: docker says that it still runs" in str(await chain.failure("stop"))


async def test_container_removed_by_its_stop_is_stopped(chain: Chain) -> None:
    await chain.client.start("comfyui", 30.0)
    chain.comfyui.stopped = chain.engine.containers.clear
    await chain.client.stop("comfyui", 30.0)
    await chain.client.stop("absent", 30.0)


async def test_start_of_an_absent_container_says_how_to_create_it(chain: Chain) -> None:
    failed = await chain.failure("start", "absent")
    assert (failed.reason, "without --rm" in str(failed)) == ("not-found", True)


async def test_container_that_ends_at_once_did_not_start(chain: Chain) -> None:
    chain.comfyui.exits_at_once, chain.comfyui.exit_code = True, 3
    assert "did not start: exit status 3" in str(await chain.failure("start"))


async def test_log_lines_are_those_of_the_container(chain: Chain) -> None:
    chain.comfyui.lines = ["loading", "CUDA error: out of memory"]
    assert await chain.client.log_lines("comfyui") == ("loading", "CUDA error: out of memory")


async def test_timeout_of_the_helper_is_reported(chain: Chain) -> None:
    await chain.client.start("comfyui", 30.0)
    chain.comfyui.stop_sec = 3600
    failed = await chain.failure("stop", timeout_sec=0.2)
    assert (failed.reason, str(failed)) == ("timeout", "container comfyui did not stop within 0.2 s")


async def test_container_that_is_not_configured_is_denied(chain: Chain) -> None:
    assert (await chain.failure("stop", "other")).reason == "denied"


async def test_missing_helper_is_named_with_the_command_that_starts_it(tmp_path: Path) -> None:
    for user, command in ((False, "sudo systemctl enable --now"), (True, "systemctl --user enable --now")):
        with pytest.raises(ContainerFailed, match=f"{command} gpumand-containers.socket") as failed:
            await HelperContainers(str(tmp_path / "absent"), user=user).inspect("comfyui")
        assert failed.value.reason == "unavailable"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{}\n",
        b"[]\n",
        b'"x"\n',
        b"nonsense\n",
        b'{"ok": 1}\n',
        b'{"ok": {"engine": "docker"}}\n',
        b'{"ok": {"engine": "lxc", "running": true, "id": "' + b"1" * 64 + b'"}}\n',
        b'{"ok": {"engine": "docker", "running": true, "id": "../../x"}}\n',
        b"[" * 100_000 + b"\n",
        b"x" * 2_000_000,
    ],
)
async def test_invalid_answer_of_the_helper_is_a_named_failure(tmp_path: Path, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "helper")
    with pytest.raises(ContainerFailed) as failed:
        await HelperContainers(str(tmp_path / "helper")).inspect("comfyui")
    assert failed.value.reason == "unavailable"
    server.close()
