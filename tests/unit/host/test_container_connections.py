"""Clients of servers in containers, and published ports that cannot be reached."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from gpumand.host.container_connections import ConsumerConnections, inner_ports, why_unreachable
from gpumand.host.tcp_table import ESTABLISHED, LISTENING, TcpSocket

SERVER = 4001
URL = "http://127.0.0.1:8188"
HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
Row = tuple[str, int, str, int, str, int]


def hex_address(address: str) -> str:
    return "".join(f"{int(part):02X}" for part in reversed(address.split(".")))


def write_table(proc: Path, pid: int | str, rows: Iterable[Row]) -> None:
    folder = proc / str(pid) / "net"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        f"   0: {hex_address(local)}:{port:04X} {hex_address(remote)}:{other:04X} {state} 0:0 00:0 0 0 0 {inode} 1\n"
        for local, port, remote, other, state, inode in rows
    ]
    (folder / "tcp").write_text(HEADER + "".join(lines))


def listening(address: str, port: int, inode: int) -> Row:
    return address, port, "0.0.0.0", 0, LISTENING, inode


def connection(address: str, port: int, remote: str, inode: int, remote_port: int = 50000) -> Row:
    return address, port, remote, remote_port, ESTABLISHED, inode


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A host on which docker-proxy serves port 8188 of a container that listens at port 80."""
    write_table(tmp_path, "self", [listening("127.0.0.1", 8188, 1)])
    (tmp_path / "self" / "fd").mkdir()
    write_table(tmp_path, SERVER, [listening("0.0.0.0", 80, 11)])
    return tmp_path


def connections(proc: Path, pids: tuple[int, ...] | None = (SERVER,)) -> ConsumerConnections:
    return ConsumerConnections(lambda _: pids, proc)


async def test_client_whose_connection_is_forwarded_to_the_container_counts(proc: Path) -> None:
    """The host's own table does not show it, so that the server would seem to be idle."""
    write_table(proc, SERVER, [listening("0.0.0.0", 80, 11), connection("172.17.0.2", 80, "192.168.1.9", 12)])
    assert await connections(proc).clients_of(URL, "comfyui") == 1


async def test_own_connection_through_the_proxy_is_no_client(proc: Path) -> None:
    (proc / "self" / "fd" / "5").symlink_to("socket:[2]")
    write_table(
        proc, "self", [listening("127.0.0.1", 8188, 1), ("127.0.0.1", 50001, "127.0.0.1", 8188, ESTABLISHED, 2)]
    )
    write_table(proc, SERVER, [listening("0.0.0.0", 80, 11), connection("172.17.0.2", 80, "172.17.0.1", 12)])
    assert await connections(proc).clients_of(URL, "comfyui") == 0


async def test_connections_within_the_container_do_not_count(proc: Path) -> None:
    rows = [listening("0.0.0.0", 80, 11), listening("127.0.0.1", 6379, 12)]
    rows += [connection("127.0.0.1", 80, "127.0.0.1", 13), connection("127.0.0.1", 6379, "127.0.0.1", 14)]
    write_table(proc, SERVER, rows)
    assert await connections(proc).clients_of(URL, "comfyui") == 0


async def test_port_of_the_same_number_counts_alone(proc: Path) -> None:
    rows = [listening("0.0.0.0", 8188, 11), listening("0.0.0.0", 9090, 12)]
    write_table(proc, SERVER, [*rows, connection("172.17.0.2", 9090, "192.168.1.9", 13)])
    assert await connections(proc).clients_of(URL, "comfyui") == 0


async def test_processes_of_one_network_count_once(proc: Path) -> None:
    rows = [listening("0.0.0.0", 80, 11), connection("172.17.0.2", 80, "192.168.1.9", 12)]
    write_table(proc, SERVER, rows)
    write_table(proc, SERVER + 1, rows)
    assert await connections(proc, (SERVER, SERVER + 1)).clients_of(URL, "comfyui") == 1


async def test_container_in_the_network_of_the_host_is_counted_there(proc: Path) -> None:
    rows = [listening("127.0.0.1", 8188, 1), connection("127.0.0.1", 8188, "127.0.0.1", 2)]
    for pid in ("self", SERVER):
        write_table(proc, pid, [*rows, ("127.0.0.1", 50000, "127.0.0.1", 8188, ESTABLISHED, 3)])
    assert await connections(proc).clients_of(URL, "comfyui") == 1


@pytest.mark.parametrize("pids", [(), (99999,)])
async def test_unknown_processes_are_not_taken_for_no_clients(proc: Path, pids: tuple[int, ...]) -> None:
    assert await connections(proc, pids).clients_of(URL, "comfyui") is None


async def test_reason_names_the_address_of_the_container(proc: Path) -> None:
    trie = "     |-- 10.88.0.5\n        /32 host LOCAL\n     |-- 127.0.0.1\n        /32 host LOCAL\n"
    (proc / str(SERVER) / "net" / "fib_trie").write_text(trie)
    reason = await connections(proc).why_unreachable("http://127.0.0.1:9999", "comfyui")
    assert "published by DNAT only, to its address 10.88.0.5, which IPAddressAllow=" in reason
    assert "to its own address" in await connections(proc, None).why_unreachable("http://127.0.0.1:9999", "comfyui")


def test_ports_of_a_container_without_those_for_itself(proc: Path) -> None:
    write_table(proc, SERVER, [listening("0.0.0.0", 80, 11), listening("127.0.0.1", 6379, 12)])
    assert inner_ports(SERVER, proc) == (80,)


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("http://127.0.0.1:8188", "published by DNAT only"),
        ("http://localhost:8188", "port 8188"),
        ("http://10.88.0.5:8188", "may lack 10.88.0.5"),
        ("http://127.0.0.1:8080", ""),
        ("http://gpu-box:8188", ""),
        ("http://8.8.8.8:80", ""),
        ("http://unix:/run/a.sock", ""),
        ("http://[", ""),
    ],
)
def test_reason_why_a_published_port_does_not_answer(url: str, part: str) -> None:
    rows = [TcpSocket(("127.0.0.1", 8080), ("0.0.0.0", 0), LISTENING, 1)]
    reason = why_unreachable(url, rows)
    assert part in reason
    assert bool(reason) == bool(part)
