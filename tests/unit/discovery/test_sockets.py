"""Reading sockets, command lines and cgroups from /proc."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from gpumand.discovery.host import Listener
from gpumand.discovery.processes import command_line, unit_in_cgroup
from gpumand.discovery.sockets import listeners, parse_table

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"


def row(address: str, state: str = "0A", inode: str = "77") -> str:
    return f"   0: {address} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  1000        0 {inode} 1 0\n"


@pytest.mark.skipif(sys.byteorder != "little", reason="the kernel writes words in the host's byte order")
@pytest.mark.parametrize(
    ("address", "listener"),
    [
        ("0100007F:1FFC", Listener("127.0.0.1", 8188)),
        ("00000000:2CAA", Listener("0.0.0.0", 11434)),
        ("00000000000000000000000000000000:0050", Listener("::", 80)),
        ("00000000000000000000000001000000:0050", Listener("::1", 80)),
        ("0000000000000000FFFF00000100007F:0050", Listener("127.0.0.1", 80)),
    ],
)
def test_addresses_of_kernel_tables_are_decoded(address: str, listener: Listener) -> None:
    assert parse_table([HEAD, row(address)]) == {77: listener}


@pytest.mark.parametrize(
    "line", ["", "nonsense\n", row("0100007F:1FFC", state="01"), row("0100007F:xx"), row("1:1", inode="x")]
)
def test_lines_without_a_listening_socket_are_skipped(line: str) -> None:
    assert parse_table([HEAD, line]) == {}


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_listening_socket_is_found_with_its_pid(family: socket.AddressFamily, host: str) -> None:
    try:
        one = socket.create_server((host, 0), family=family)
    except OSError as error:
        pytest.skip(f"no {host} here: {error}")
    with one:
        port = one.getsockname()[1]
        found, _ = listeners()

    assert Listener(host, port, os.getpid()) in found


def test_a_proc_folder_without_tables_has_no_listeners(tmp_path: Path) -> None:
    assert listeners(tmp_path) == ((), False)


def test_a_command_line_becomes_one_printable_line(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cmdline").write_bytes(b"python\0main.py\0--x\n\x1b[31m\0")

    assert command_line(7, tmp_path) == "python main.py --x??[31m"
    assert command_line(8, tmp_path) == ""


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/comfyui.service\n", "comfyui.service"),
        ("0::/system.slice/x.service/payload\n", "x.service"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/ollama.service\n", "ollama.service"),
        ("12:cpu:/a.service\n0::/system.slice/docker-ab12.scope\n", "docker-ab12.scope"),
        ("0::/\n", ""),
        ("1:name=systemd:/a.service\n", ""),
        ("0::/user.slice/user@1000.service/\x1b[2Jevil.service\n", "user@1000.service"),
        ("0::/system.slice/system-a.slice/a\\x2db@c:1.service\n", "a\\x2db@c:1.service"),
    ],
)
def test_the_innermost_unit_of_a_cgroup_path_is_returned(cgroup: str, unit: str, tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cgroup").write_text(cgroup)

    assert unit_in_cgroup(7, tmp_path) == unit
    assert unit_in_cgroup(8, tmp_path) == ""
