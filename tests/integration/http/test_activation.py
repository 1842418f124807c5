"""The real daemon on a socket that was passed to it, as systemd does."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gpumand.http.limits import MAX_CONNECTIONS
from tests.exposition import parsed
from tests.integration.http import handover
from tests.integration.http.raw import Where, answer_of, ask, close, connect, exchange, following, read_to_end, request
from tests.integration.live import LiveHost, answering, error_of, live_host, table

SIZES = {"alpha": 9000, "beta": 18000}


@pytest.fixture
def where(tmp_path: Path) -> str:
    return str(tmp_path / "gpumand.sock")


@pytest.fixture
def listener(where: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(where)
        one.listen(128)
        yield one


@pytest.fixture
async def host(tmp_path: Path, listener: socket.socket) -> AsyncIterator[LiveHost]:
    """Two consumers that do not fit together, and a daemon that was stopped and is given the socket."""
    async with live_host(tmp_path, SIZES) as one:
        await one.end()
        hand_over(one, ("http", listener.fileno()))
        yield one


def hand_over(host: LiveHost, *named: tuple[str, int]) -> None:
    words = [f"{name}={fd}" for name, fd in named]
    host.program = (handover.__file__, *words, "--", sys.executable, "-m", "gpumand")
    host.passed = tuple(fd for _, fd in named)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def refused(where: Where) -> bool:
    try:
        _, writer = await connect(where)
    except ConnectionRefusedError:
        return True
    await close(writer)
    return False


async def test_status_over_http_is_get_status(host: LiveHost, where: str) -> None:
    await host.start()
    client = await host.client()
    await client.acquire("alpha")
    told, called = (await ask(where, "/v1/status")).json, await client.status()
    for status in (told, called):
        for device in status["devices"]:
            device.pop("sampled_usec")
    assert told == called
    assert [lease["consumer"] for lease in told["leases"]] == ["alpha"]
    await client.close()


async def test_connection_from_before_the_start_is_answered(host: LiveHost, where: str) -> None:
    early = asyncio.create_task(ask(where, "/healthz"))
    await host.start()
    assert (await early).body == b"ok\n"


async def test_stream_tells_what_the_bus_tells(host: LiveHost, where: str) -> None:
    await host.start()
    client = await host.client(listen=True)
    async with following(where) as events:
        lease, _ = await client.acquire("alpha")
        await client.release(lease)
        await client.acquire("beta")
        told = [await events.next() for _ in range(4)]
    assert [name for name, _ in told] == ["LeaseGranted", "LeaseEnded", "EvictionOccurred", "LeaseGranted"]
    for name in {name for name, _ in told}:
        heard = [list(body) for body in client.heard(name)]
        assert [list(fields.values()) for one, fields in told if one == name] == heard
    await client.close()


async def test_metrics_count_what_was_done(host: LiveHost, where: str) -> None:
    await host.start()
    client = await host.client()
    lease, _ = await client.acquire("alpha")
    await client.release(lease)
    await client.acquire("beta")
    await error_of(client.acquire("alpha", timeout_usec=("t", 0)))
    samples = parsed((await ask(where, "/metrics")).body.decode("utf-8"))
    of_alpha, of_beta = (("consumer", "alpha"),), (("consumer", "beta"),)
    names = ("grants", "refusals", "loads", "load_failures", "evictions", "eviction_failures")
    assert [samples[(f"gpumand_{name}_total", ())] for name in names] == [2, 1, 2, 0, 1, 0]
    assert samples[("gpumand_wait_seconds_count", of_alpha)] == samples[("gpumand_wait_seconds_count", of_beta)] == 1
    assert samples[("gpumand_load_seconds_count", of_beta)] == 1
    assert samples[("gpumand_eviction_seconds_count", of_alpha)] == 1
    assert samples[("gpumand_consumer_resident", of_beta)] == 1
    assert samples[("gpumand_leases", ())] == 1
    await client.close()


async def test_stop_ends_streams_and_leaves_the_socket_to_systemd(
    host: LiveHost, where: str, listener: socket.socket
) -> None:
    await host.start()
    async with following(where) as events:
        assert await host.end() == 0
        await events.ended()
    assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    early = asyncio.create_task(ask(where, "/v1/status"))  # the path is there, and the socket listens
    await host.start()
    assert (await early).status == 200


async def test_killed_daemon_leaves_the_socket_to_the_next(host: LiveHost, where: str) -> None:
    await host.start()
    await host.end(signal.SIGKILL)
    early = asyncio.create_task(ask(where, "/v1/status"))
    await host.start()
    assert (await early).status == 200


async def test_clients_that_idle_or_talk_nonsense_do_not_slow_the_bus(host: LiveHost, where: str) -> None:
    await host.start()
    async with answering(host, within_sec=3.0):
        idle = [await connect(where) for _ in range(MAX_CONNECTIONS + 72)]
        for _ in range(50):
            await exchange(where, os.urandom(2000) + b"\r\n\r\n", half_close=True)
        assert all(one.status == 200 for one in await asyncio.gather(*(ask(where, "/metrics") for _ in range(50))))
        assert await read_to_end(idle[0][0]) == b""
        for _, writer in idle:
            await close(writer)
    assert "Traceback" not in host.log


async def test_foreign_descriptors_are_closed_and_said(host: LiveHost, where: str, listener: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams, socket.socket(socket.AF_UNIX) as silent:
        read, write = os.pipe()
        named = [("http", datagrams.fileno()), ("http", silent.fileno()), ("http", read), ("other", listener.fileno())]
        hand_over(host, *named, ("http", listener.fileno()))
        await host.start()
        assert (await ask(where, "/healthz")).status == 200
        assert host.daemon is not None
        opened = [os.readlink(f"/proc/{host.daemon.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{host.daemon.pid}/fd")]
        inodes = [os.fstat(fd).st_ino for fd in (datagrams.fileno(), silent.fileno(), read)]
        assert not [inode for inode in inodes if any(f"[{inode}]" in link for link in opened)]
        assert sum(f"[{os.fstat(listener.fileno()).st_ino}]" in link for link in opened) == 1
        os.close(read)
        os.close(write)
    assert host.log.count("it is closed") == 4


async def test_descriptors_of_another_process_are_left_alone(host: LiveHost, where: str) -> None:
    host.environ["HANDOVER_PID"] = "1"
    await host.start()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await ask(where, "/healthz")  # nobody accepts


async def test_daemon_without_a_socket_does_not_import_the_server(tmp_path: Path) -> None:
    async with live_host(tmp_path, {}) as host:
        assert host.daemon is not None
        maps = await asyncio.to_thread(Path(f"/proc/{host.daemon.pid}/maps").read_text)
        assert "aiohttp" not in maps


async def test_tcp_listener_by_configuration_and_reload(host: LiveHost, where: str) -> None:
    tcp = ("127.0.0.1", free_port())
    host.configure("".join(table(host.consumers[name], mib) for name, mib in SIZES.items()) + listen(tcp[1]))
    await host.start()
    assert (await ask(tcp, "/v1/status")).json["consumers"] == (await ask(where, "/v1/status")).json["consumers"]
    client, other = await host.client(), ("127.0.0.1", free_port())
    host.configure(listen(other[1]))
    await client.call("Reload")
    assert (await ask(other, "/healthz")).status == 200
    assert await refused(tcp)
    await client.close()


async def test_reload_with_a_taken_address_is_refused_and_changes_nothing(host: LiveHost, where: str) -> None:
    await host.start()
    client = await host.client()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        host.configure(listen(taken.getsockname()[1]))
        error = await error_of(client.call("Reload"))
    assert error.name == "org.gpumand1.Error.ConfigInvalid"
    assert "Address already in use" in str(error)
    assert [one["name"] for one in (await client.status())["consumers"]] == list(SIZES)
    assert (await ask(where, "/healthz")).status == 200
    await client.close()


async def test_reloads_at_the_same_moment_do_not_take_each_others_address_for_taken(tmp_path: Path) -> None:
    async with live_host(tmp_path, {}) as host:  # without a socket, the first to listen takes long to begin
        client, where = await host.client(), ("127.0.0.1", free_port())
        host.configure(listen(where[1]))
        await asyncio.gather(*(client.call("Reload") for _ in range(5)))
        assert (await ask(where, "/healthz")).status == 200
        host.configure("")
        await client.call("Reload")
        assert await refused(where)
        await client.close()


async def test_who_waits_for_a_daemon_that_cannot_start_is_told_and_does_not_have_it_started_again(
    host: LiveHost, where: str, listener: socket.socket
) -> None:
    host.configure("nonsense = 1")
    waiting = [asyncio.create_task(ask(where, path)) for path in ("/v1/status", "/v1/events")]
    _, leaver = await connect(where)
    await close(leaver)
    with pytest.raises(AssertionError, match=f"the daemon ended with {os.EX_CONFIG}"):
        await host.start()
    for answer in await asyncio.gather(*waiting):
        assert answer.status == 503
        assert b"its configuration is bad" in answer.body
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()  # or systemd would start it for what is left, again and again
    assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1


async def test_start_with_a_taken_address_fails_with_one_line(host: LiveHost) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        host.configure(listen(taken.getsockname()[1]))
        with pytest.raises(AssertionError, match="the daemon ended with 1"):
            await host.start()
    assert host.log.count("cannot be listened at: Address already in use") == 1
    assert "Traceback" not in host.log


def listen(port: int) -> str:
    return f'[http]\nlisten = "127.0.0.1:{port}"\n'


async def test_stop_is_not_kept_waiting_by_clients(host: LiveHost, where: str) -> None:
    await host.start()
    async with following(where), asyncio.timeout(5):
        idle = [await connect(where) for _ in range(50)]
        for _, writer in idle:
            writer.write(b"GET /v1/st")
        assert await host.end() == 0
        for _, writer in idle:
            await close(writer)


async def test_answer_is_whole_for_a_client_that_has_closed_its_end(host: LiveHost, where: str) -> None:
    await host.start()
    answer = answer_of(await exchange(where, request("/metrics"), half_close=True))
    assert len(answer.body) == int(answer.headers["content-length"])
