"""The process: sockets, reload, stop, limits, and an absent daemon."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path

import aiohttp
import pytest
from aiohttp import WSMsgType

from tests.integration.gateway.conftest import Front, front
from tests.integration.gateway.fake_service import fake_service
from tests.integration.gateway.live_gateway import LiveGateway, free_port, http, live_gateway, work
from tests.integration.live import bare_host, live_host, wait_until


async def is_true(value: object) -> bool:
    return bool(value)


async def answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.post(f"{url}/echo", data=b"x") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def is_ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await asyncio.wait_for(reader.read(1), 1.0) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


async def test_unix_socket_serves_and_names_its_user(tmp_path: Path) -> None:
    path = tmp_path / "fake.sock"
    async with front(tmp_path) as made:
        text = made.gateway.file.read_text(encoding="utf-8")
        made.gateway.file.write_text(
            text.replace('listen = "', f'listen = ["unix:{path}", "').replace(
                f'{made.gateway.ports["fake"]}"', f'{made.gateway.ports["fake"]}"]'
            ),
            encoding="utf-8",
        )
        assert made.gateway.process is not None
        made.gateway.process.send_signal(signal.SIGHUP)
        await wait_until("the socket exists", lambda: is_true(path.exists()))
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
            # No Host check: a web site cannot reach a Unix socket.
            async with session.post("http://anything/echo", data=b"x") as answer:
                assert answer.status == 200
                assert "X-Forwarded-For" not in (await answer.json())["headers"]
            leases = (await made.control.status())["leases"]
        assert [one["reason"] for one in leases] == [f"gateway: uid {os.getuid()} POST /echo"]
        await made.gateway.end()
        assert not path.exists()


async def test_sockets_that_systemd_passes_are_used_by_name(tmp_path: Path) -> None:
    async with bare_host(tmp_path) as host, fake_service() as service, http() as session:
        keys = f'[consumers.fake]\nvram_resident_mib = 1000\nurl = "{service.url}"\nunload = {{ path = "/unload" }}\n'
        host.configure(keys)
        await host.start()
        file = tmp_path / "gateway.toml"
        file.write_text("[gateway.listeners.fake]\n", encoding="utf-8")
        passed = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        # A shell sets LISTEN_PID to its own pid, which exec keeps.
        fds = " ".join(f"{number}<&{one.fileno()}" for number, one in zip((3, 4), passed, strict=True))
        command = f"exec {fds}; export LISTEN_PID=$$; exec {sys.executable} -m gpumand.gateway "
        command += f"--config {file} --bus-address {host.bus.address}"
        environ = os.environ | {"LISTEN_FDS": "2", "LISTEN_FDNAMES": "fake:other"}
        numbers = [one.fileno() for one in passed]
        with (tmp_path / "gateway.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                "bash", "-c", command, env=environ, pass_fds=numbers, stderr=log
            )
        try:
            url = f"http://127.0.0.1:{passed[0].getsockname()[1]}"
            await wait_until("the passed socket answers", lambda: answers(session, url))
            address = f"127.0.0.1:{passed[0].getsockname()[1]}"
            assert f"fake: listening on systemd {address}" in (tmp_path / "gateway.log").read_text()
        finally:
            process.terminate()
            assert await process.wait() == 0
            for one in passed:
                one.close()


async def test_reload_adds_and_removes_listeners_without_cutting_a_stream(tmp_path: Path) -> None:
    async with front(tmp_path) as made:
        stream = await made.session.post(f"{made.url}/stream?chunks=30&pause=0.1")
        port = free_port()
        made.gateway.file.write_text(
            f'[gateway.listeners.second]\nconsumer = "fake"\nlisten = "127.0.0.1:{port}"\n', encoding="utf-8"
        )
        assert made.gateway.process is not None
        made.gateway.process.send_signal(signal.SIGHUP)

        await wait_until("the new listener answers", lambda: answers(made.session, f"http://127.0.0.1:{port}"))

        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", made.gateway.ports["fake"])
        assert len((await stream.read()).splitlines()) == 30


async def test_invalid_configuration_is_not_taken_over(tmp_path: Path) -> None:
    async with front(tmp_path) as made:
        made.gateway.file.write_text("[gateway]\nwait_sec = -1\n", encoding="utf-8")
        assert made.gateway.process is not None
        made.gateway.process.send_signal(signal.SIGHUP)

        await wait_until("the error is logged", lambda: is_true("was not taken over" in made.gateway.log))

        assert "gateway.toml:2: gateway.wait_sec: must be a number" in made.gateway.log
        assert await answers(made.session, made.url)


async def test_reload_that_fails_at_an_address_leaves_the_routing_as_it_was(tmp_path: Path) -> None:
    async with front(tmp_path) as made:
        with socket.create_server(("127.0.0.1", 0)) as used:
            text = made.gateway.file.read_text(encoding="utf-8")
            text += 'consumer = "blocker"\n'
            text += f'[gateway.listeners.other]\nconsumer = "fake"\nlisten = "127.0.0.1:{used.getsockname()[1]}"\n'
            made.gateway.file.write_text(text, encoding="utf-8")
            assert made.gateway.process is not None
            made.gateway.process.send_signal(signal.SIGHUP)
            await wait_until("the error is logged", lambda: is_true("was not taken over" in made.gateway.log))

        assert await answers(made.session, made.url)
        assert made.service.paths() == ["POST /echo"]


@pytest.mark.parametrize("keys", ["[gateway]\nwait = 1\n", "[gateway.listeners.fake]\n"])
async def test_configuration_that_cannot_be_used_ends_the_start(tmp_path: Path, keys: str) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text(keys, encoding="utf-8")
    command = [sys.executable, "-m", "gpumand.gateway", "--config", str(file), "--bus-address", "unix:path=/none"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, log = await process.communicate()

    assert process.returncode == 78
    assert b"Traceback" not in log


async def test_address_that_is_in_use_ends_the_start_with_its_reason(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as used:
        file, port = tmp_path / "gateway.toml", used.getsockname()[1]
        file.write_text(f'[gateway.listeners.fake]\nlisten = "127.0.0.1:{port}"\n', encoding="utf-8")
        command = [sys.executable, "-m", "gpumand.gateway", "--config", str(file), "--bus-address", "unix:path=/none"]
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, log = await process.communicate()

    assert process.returncode == 78
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use".encode() in log


async def test_stop_closes_open_pages_at_once_and_cuts_long_work_after_the_drain_time(tmp_path: Path) -> None:
    async with front(tmp_path, keys="drain_sec = 4") as made:
        page = await made.session.ws_connect(f"{made.url}/ws")
        long = asyncio.create_task(made.session.post(f"{made.url}/slow?sec=60"))
        await wait_until("the service works", lambda: is_true("POST /slow?sec=60" in made.service.paths()))
        began = time.monotonic()
        ending = asyncio.create_task(made.gateway.end())

        message = await page.receive()
        assert time.monotonic() - began < 3.5
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1012)
        answer = await long

        assert answer.status == 503
        assert "the gateway is being stopped" in await answer.text()
        assert await ending == 0
        assert time.monotonic() - began < 30
        assert (await made.control.status())["leases"] == []


async def test_requests_wait_for_a_daemon_that_is_not_there_yet(tmp_path: Path) -> None:
    async with (
        live_host(tmp_path, {"llm": 14000}) as host,
        live_gateway(host, {"llm": ""}) as gateway,
        http() as session,
    ):
        await host.end()
        waiting = asyncio.create_task(work(session, gateway.url("llm")))
        await asyncio.sleep(1)
        assert not waiting.done()

        await host.start()

        assert await waiting == 200


async def test_absent_daemon_is_the_reason_of_the_refusal(tmp_path: Path) -> None:
    async with (
        live_host(tmp_path, {"llm": 14000}) as host,
        live_gateway(host, {"llm": ""}, "wait_sec = 1") as gateway,
        http() as session,
    ):
        await host.end()
        async with session.post(f"{gateway.url('llm')}/work", data=b"x") as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "5"
            assert "gpumand cannot be reached" in await answer.text()


async def test_waiting_requests_are_limited_in_total(tmp_path: Path) -> None:
    async with front(tmp_path, keys="max_waiting = 3") as made:
        lease = await made.block()
        tasks = [asyncio.create_task(made.session.post(f"{made.url}/echo", data=b"x")) for _ in range(5)]
        await wait_until("two are refused", lambda: is_true(sum(one.done() for one in tasks) >= 2))
        done, pending = [one for one in tasks if one.done()], [one for one in tasks if not one.done()]
        await made.control.release(lease)

        assert [(await one).status for one in done] == [503, 503]
        assert {(await one).status for one in pending} == {200}


async def test_idle_connections_make_room_for_new_ones(tmp_path: Path) -> None:
    async with front(tmp_path, keys="max_connections = 4") as made:
        idle = [await asyncio.open_connection("127.0.0.1", made.gateway.ports["fake"]) for _ in range(4)]

        # New clients have a second to send their requests, and are not ended for others before.
        await wait_until("a silent client made room", lambda: answers(made.session, made.url))

        assert sum(await asyncio.gather(*(is_ended(reader) for reader, _ in idle))) == 1
        for _, writer in idle:
            writer.close()


async def test_gateway_needs_little_memory_and_no_time_while_it_is_idle(fake_front: Front) -> None:
    gateway: LiveGateway = fake_front.gateway
    assert gateway.process is not None
    stat = Path(f"/proc/{gateway.process.pid}/stat")

    def ticks() -> int:
        fields = stat.read_text(encoding="ascii").rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    async def is_idle() -> bool:
        before = ticks()
        await asyncio.sleep(3)
        return ticks() - before <= 1

    await wait_until("three seconds take no time of a processor", is_idle)
    assert gateway.rss_mib() < 50


async def test_service_on_a_unix_socket_is_reached(tmp_path: Path) -> None:
    path = tmp_path / "service.sock"
    async with bare_host(tmp_path) as host, fake_service(path) as service, http() as session:
        keys = f'[consumers.fake]\nvram_resident_mib = 1000\nurl = "http://unix:{path}:/base"\n'
        host.configure(keys + 'unload = { path = "/unload" }\n')
        await host.start()
        async with live_gateway(host, {"fake": ""}) as gateway, session.post(gateway.url("fake") + "/echo") as answer:
            assert answer.status == 200
        assert service.paths() == ["POST /base/echo"]


async def test_client_that_connected_just_before_the_stop_is_answered(fake_front: Front) -> None:
    gateway = fake_front.gateway
    assert await answers(fake_front.session, fake_front.url)
    clients = [await asyncio.open_connection("127.0.0.1", gateway.ports["fake"]) for _ in range(20)]
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGTERM)
    for number, (_, writer) in enumerate(clients):
        body = str(number).encode()
        writer.write(b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    for reader, writer in clients:
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
    assert await gateway.end() == 0
