"""Descriptors passed as systemd passes them: from number 3 on, to a separate process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import json, os, sys
from gpumand.service_manager.sockets import take_listeners
if "LISTEN_PID" not in os.environ:
    os.environ["LISTEN_PID"] = str(os.getpid())
taken = take_listeners()
kept = [one.fileno() for one in taken]
said = {
    "taken": [one.getsockname() for one in taken],
    "nonblocking": all(one.gettimeout() == 0 for one in taken),
    "inheritable": any(one.get_inheritable() for one in taken),
    "open": [fd for fd in range(3, 3 + int(sys.argv[1])) if os.path.exists(f"/proc/self/fd/{fd}") and fd not in kept],
    "environ": sorted(name for name in os.environ if name.startswith("LISTEN_")),
    "again": len(take_listeners()),
}
print(json.dumps(said))
"""


def run_program(fds: list[int], **environ: str) -> dict[str, Any]:
    """Run the program with these descriptors from 3 on, and return its output."""

    def renumber() -> None:
        for index, fd in enumerate(fds):
            os.dup2(fd, 100 + index)
        for index in range(len(fds)):
            os.dup2(100 + index, 3 + index)
        os.closerange(3 + len(fds), 100 + len(fds))

    argv = [sys.executable, "-c", PROGRAM, str(len(fds))]
    done = subprocess.run(
        argv,
        env=os.environ | environ,
        preexec_fn=renumber,
        close_fds=False,
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture
def listener(tmp_path: Path) -> Any:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "s"))
        one.listen()
        yield one


def test_named_listener_is_taken_once_and_variables_are_removed(listener: socket.socket) -> None:
    result = run_program([listener.fileno()], LISTEN_FDS="1", LISTEN_FDNAMES="http")
    assert result["taken"] == [listener.getsockname()]
    assert result["nonblocking"]
    assert not result["inheritable"]
    assert result["environ"] == []
    assert result["again"] == 0


def test_several_listeners_of_one_name_are_all_taken(listener: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        result = run_program([listener.fileno(), tcp.fileno()], LISTEN_FDS="2", LISTEN_FDNAMES="http:http")
        assert result["taken"] == [listener.getsockname(), list(tcp.getsockname())]


def test_other_descriptors_are_closed(listener: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams, socket.socket(socket.AF_UNIX) as silent:
        fds = [datagrams.fileno(), silent.fileno(), listener.fileno(), listener.fileno(), 1]
        result = run_program(fds, LISTEN_FDS="5", LISTEN_FDNAMES="http:http:other:http:http")
    assert result["taken"] == [listener.getsockname()]
    assert result["open"] == []


@pytest.mark.parametrize("names", ["", "other", "HTTP", "http2"])
def test_listener_with_another_name_is_closed(listener: socket.socket, names: str) -> None:
    result = run_program([listener.fileno()], LISTEN_FDS="1", LISTEN_FDNAMES=names)
    assert (result["taken"], result["open"]) == ([], [])


@pytest.mark.parametrize("count", ["", "x", "-1", "1.0", "999999999999999999999", "²"])
def test_invalid_descriptor_count_takes_none(listener: socket.socket, count: str) -> None:
    result = run_program([listener.fileno()], LISTEN_FDS=count, LISTEN_FDNAMES="http")
    assert (result["taken"], result["environ"]) == ([], [])


def test_descriptor_count_above_the_real_number_is_harmless(listener: socket.socket) -> None:
    result = run_program([listener.fileno()], LISTEN_FDS="50", LISTEN_FDNAMES="http")
    assert result["taken"] == [listener.getsockname()]


@pytest.mark.parametrize("pid", ["1", "", "x"])
def test_descriptors_of_another_process_are_left_open(listener: socket.socket, pid: str) -> None:
    result = run_program([listener.fileno()], LISTEN_FDS="1", LISTEN_FDNAMES="http", LISTEN_PID=pid)
    assert (result["taken"], result["open"], result["environ"]) == ([], [3], [])
