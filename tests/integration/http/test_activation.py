"""The real daemon on a socket that is passed to it as systemd does."""

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
from gpumand.testing.ports import free_port
from tests.exposition import parsed
from tests.integration.http import handover
from tests.integration.http.raw import (
    answer_of,
    ask,
    close,
    connect,
    exchange,
    following,
    read_to_end,
    refused,
    request,
)
from tests.integration.live import LiveHost, error_of, live_host, status_answers_fast, table

SIZES = {"alpha": 9000, "beta": 18000}


@pytest.fixture
def address(tmp_path: Path) -> str:
    return str(tmp_path / "gpumand.sock")


@pytest.fixture
def listener(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(address)
        one.listen(128)
        yield one


@pytest.fixture
async def host(tmp_path: Path, listener: socket.socket) -> AsyncIterator[LiveHost]:
    """Two consumers that do not fit together, and a stopped daemon that gets the socket when it starts."""
    async with live_host(tmp_path, SIZES) as one:
        await one.end()
        hand_over(one, ("http", listener.fileno()))
        yield one


def hand_over(host: LiveHost, *named: tuple[str, int]) -> None:
    message_part = [f"{name}={fd}" for name, fd in named]
    host.program = (handover.__file__, *message_part, "--", sys.executable, "-m", "gpumand")
    host.passed = tuple(fd for _, fd in named)


async def test_status_over_http_equals_get_status(host: LiveHost, address: str) -> None:
    await host.start()
    client = await host.client()
    await client.acquire("alpha")
    received, called = (await ask(address, "/v1/status")).json, await client.status()
    for status in (received, called):
        for device in status["devices"]:
            device.pop("sampled_usec")
    assert received == called
    assert [lease["consumer"] for lease in received["leases"]] == ["alpha"]
    await client.close()


async def test_connection_made_before_the_start_is_served(host: LiveHost, address: str) -> None:
    early = asyncio.create_task(ask(address, "/healthz"))
    await host.start()
    assert (await early).body == b"ok\n"


async def test_stream_has_the_same_events_as_the_bus(host: LiveHost, address: str) -> None:
    await host.start()
    client = await host.client(listen=True)
    async with following(address) as events:
        lease, _ = await client.acquire("alpha")
        await client.release(lease)
        await client.acquire("beta")
        received = [await events.next() for _ in range(4)]
    assert [name for name, _ in received] == ["LeaseGranted", "LeaseEnded", "EvictionOccurred", "LeaseGranted"]
    for name in {name for name, _ in received}:
        signals = [list(body) for body in client.received(name)]
        assert [list(fields.values()) for one, fields in received if one == name] == signals
    await client.close()


async def test_metrics_count_grants_loads_and_evictions(host: LiveHost, address: str) -> None:
    await host.start()
    client = await host.client()
    lease, _ = await client.acquire("alpha")
    await client.release(lease)
    await client.acquire("beta")
    await error_of(client.acquire("alpha", timeout_usec=("t", 0)))
    samples = parsed((await ask(address, "/metrics")).body.decode("utf-8"))
    of_alpha, of_beta = (("consumer", "alpha"),), (("consumer", "beta"),)
    names = ("grants", "refusals", "loads", "load_failures", "evictions", "eviction_failures")
    assert [samples[(f"gpumand_{name}_total", ())] for name in names] == [2, 1, 2, 0, 1, 0]
    assert samples[("gpumand_wait_seconds_count", of_alpha)] == samples[("gpumand_wait_seconds_count", of_beta)] == 1
    assert samples[("gpumand_load_seconds_count", of_beta)] == 1
    assert samples[("gpumand_eviction_seconds_count", of_alpha)] == 1
    assert samples[("gpumand_consumer_resident", of_beta)] == 1
    assert samples[("gpumand_leases", ())] == 1
    await client.close()


async def test_stop_ends_streams_and_keeps_the_socket_listening(
    host: LiveHost, address: str, listener: socket.socket
) -> None:
    await host.start()
    async with following(address) as events:
        assert await host.end() == 0
        await events.ended()
    assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    early = asyncio.create_task(ask(address, "/v1/status"))  # the path exists and the socket listens
    await host.start()
    assert (await early).status == 200


async def test_killed_daemon_keeps_the_socket_for_the_next_one(host: LiveHost, address: str) -> None:
    await host.start()
    await host.end(signal.SIGKILL)
    early = asyncio.create_task(ask(address, "/v1/status"))
    await host.start()
    assert (await early).status == 200


async def test_idle_and_invalid_http_clients_do_not_slow_the_bus(host: LiveHost, address: str) -> None:
    await host.start()
    await ask(address, "/healthz")  # the first connection loads the library; the socket's queue is short in this test
    async with status_answers_fast(host, within_sec=3.0):
        idle = [await connect(address) for _ in range(MAX_CONNECTIONS + 72)]
        for _ in range(50):
            await exchange(address, os.urandom(2000) + b"\r\n\r\n", half_close=True)
        assert all(one.status == 200 for one in await asyncio.gather(*(ask(address, "/metrics") for _ in range(50))))
        assert await read_to_end(idle[0][0]) == b""
        for _, writer in idle:
            await close(writer)
    assert "Traceback" not in host.log


async def test_unsuitable_descriptors_are_closed_and_logged(
    host: LiveHost, address: str, listener: socket.socket
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams, socket.socket(socket.AF_UNIX) as silent:
        read, write = os.pipe()
        named = [("http", datagrams.fileno()), ("http", silent.fileno()), ("http", read), ("other", listener.fileno())]
        hand_over(host, *named, ("http", listener.fileno()))
        await host.start()
        assert (await ask(address, "/healthz")).status == 200
        assert host.daemon is not None
        opened = [os.readlink(f"/proc/{host.daemon.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{host.daemon.pid}/fd")]
        inodes = [os.fstat(fd).st_ino for fd in (datagrams.fileno(), silent.fileno(), read)]
        assert not [inode for inode in inodes if any(f"[{inode}]" in link for link in opened)]
        assert sum(f"[{os.fstat(listener.fileno()).st_ino}]" in link for link in opened) == 1
        os.close(read)
        os.close(write)
    assert host.log.count("closed the passed descriptor") == 4


async def test_descriptors_of_another_process_are_left_alone(host: LiveHost, address: str) -> None:
    host.environ["HANDOVER_PID"] = "1"
    await host.start()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await ask(address, "/healthz")  # no process accepts


async def test_daemon_without_a_socket_does_not_import_the_server(tmp_path: Path) -> None:
    async with live_host(tmp_path, {}) as host:
        assert host.daemon is not None
        maps = await asyncio.to_thread(Path(f"/proc/{host.daemon.pid}/maps").read_text)
        assert "aiohttp" not in maps


async def test_tcp_address_follows_configuration_and_reload(host: LiveHost, address: str) -> None:
    tcp = ("127.0.0.1", free_port())
    host.configure("".join(table(host.consumers[name], mib) for name, mib in SIZES.items()) + listen(tcp[1]))
    await host.start()
    assert (await ask(tcp, "/v1/status")).json["consumers"] == (await ask(address, "/v1/status")).json["consumers"]
    client, other = await host.client(), ("127.0.0.1", free_port())
    host.configure(listen(other[1]))
    await client.call("Reload")
    assert (await ask(other, "/healthz")).status == 200
    assert await refused(tcp)
    await client.close()


async def test_reload_with_an_address_in_use_is_refused_and_changes_nothing(host: LiveHost, address: str) -> None:
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
    assert (await ask(address, "/healthz")).status == 200
    await client.close()


async def test_simultaneous_reloads_listen_on_a_new_address_once(tmp_path: Path) -> None:
    async with live_host(tmp_path, {}) as host:  # without a socket the first listen is slow, because it imports aiohttp
        client, address = await host.client(), ("127.0.0.1", free_port())
        host.configure(listen(address[1]))
        await asyncio.gather(*(client.call("Reload") for _ in range(5)))
        assert (await ask(address, "/healthz")).status == 200
        host.configure("")
        await client.call("Reload")
        assert await refused(address)
        await client.close()


async def test_waiting_clients_get_503_if_the_daemon_cannot_start_and_do_not_restart_it(
    host: LiveHost, address: str, listener: socket.socket
) -> None:
    host.configure("nonsense = 1")
    waiting = [asyncio.create_task(ask(address, path)) for path in ("/v1/status", "/v1/events")]
    _, disconnected = await connect(address)
    await close(disconnected)
    with pytest.raises(AssertionError, match=f"the daemon ended with {os.EX_CONFIG}"):
        await host.start()
    for answer in await asyncio.gather(*waiting):
        assert answer.status == 503
        assert b"its configuration has errors" in answer.body
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()  # systemd would start the daemon again for every connection that is left
    assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1


async def test_start_with_an_address_in_use_fails_with_one_line(host: LiveHost) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        host.configure(listen(taken.getsockname()[1]))
        with pytest.raises(AssertionError, match="the daemon ended with 1"):
            await host.start()
    assert host.log.count(": Address already in use") == 1
    assert "Traceback" not in host.log


@pytest.mark.parametrize("absent", ["192.0.2.1", "[2001:db8::1]"])
async def test_address_that_comes_later_keeps_neither_the_daemon_nor_a_reload_from_working(
    host: LiveHost, absent: str
) -> None:
    later = f'[http]\nlisten = "{absent}:{free_port()}"\nallow_remote = true\n'
    host.configure(later)
    await host.start()
    client, tcp = await host.client(), ("127.0.0.1", free_port())
    assert f"{absent.strip('[]')} is no address of this host at present" in host.log

    host.configure(listen(tcp[1]))
    await client.call("Reload")
    assert (await ask(tcp, "/healthz")).status == 200
    host.configure(later)
    await client.call("Reload")
    assert host.log.count("is no address of this host at present") == 2
    await client.close()


def listen(port: int) -> str:
    return f'[http]\nlisten = "127.0.0.1:{port}"\n'


async def test_stop_does_not_wait_for_clients(host: LiveHost, address: str) -> None:
    await host.start()
    async with following(address), asyncio.timeout(30):
        idle = [await connect(address) for _ in range(50)]
        for _, writer in idle:
            writer.write(b"GET /v1/st")
        assert await host.end() == 0
        for _, writer in idle:
            await close(writer)


async def test_half_closed_client_gets_the_whole_response(host: LiveHost, address: str) -> None:
    await host.start()
    answer = answer_of(await exchange(address, request("/metrics"), half_close=True))
    assert len(answer.body) == int(answer.headers["content-length"])
