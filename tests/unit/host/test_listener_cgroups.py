"""The cgroups of listening sockets, by the kernel's answers and by a tree of cgroups."""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.host import listener_cgroups
from gpumand.host.listener_cgroups import parse_messages

DONE, ERROR, SOCKETS = 3, 2, 20
CGROUP_ID, OTHER = 21, 8


def message(kind: int, body: bytes) -> bytes:
    padding = bytes(-len(body) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 1, 0) + body + padding


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def listener(inode: int, *attributes: bytes) -> bytes:
    return message(SOCKETS, bytes(52) + struct.pack("=5I", 0, 0, 0, 1000, inode) + b"".join(attributes))


def cgroup(number: int) -> bytes:
    return attribute(CGROUP_ID, struct.pack("=Q", number))


def parsed(data: bytes) -> list[tuple[int, int]]:
    return list(parse_messages(data))


def test_inode_and_cgroup_of_every_listener_are_read() -> None:
    data = listener(7, attribute(OTHER, b"\0"), cgroup(4711)) + listener(8, cgroup(2**40))

    assert parsed(data) == [(7, 4711), (8, 2**40)]


def test_kernel_that_reports_no_cgroup_leaves_it_unknown() -> None:
    assert parsed(listener(7, attribute(OTHER, b"\0")) + listener(8)) == []


def test_end_and_refusal_of_the_dump_are_recognised() -> None:
    with pytest.raises(EOFError):
        parsed(message(DONE, bytes(4)))
    with pytest.raises(PermissionError):
        parsed(message(ERROR, struct.pack("=i", -13)))


@pytest.mark.parametrize("body", [b"", b"\xf3\xff", struct.pack("=i", -(2**31)), struct.pack("=i", 5)])
def test_refusal_that_names_no_known_error_is_an_error_of_the_system(body: bytes) -> None:
    with pytest.raises(OSError, match="without a number that is known"):
        parsed(message(ERROR, body))


@given(st.binary(max_size=300))
def test_no_answer_raises_anything_else(data: bytes) -> None:
    with suppress(OSError, EOFError):
        parsed(data)


def test_only_a_tree_of_version_2_names_cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unit = tmp_path / "system.slice" / "llm.service"
    unit.mkdir(parents=True)
    monkeypatch.setattr(listener_cgroups, "_dump", lambda _: iter([(7, unit.stat().st_ino), (8, 1)]))

    assert listener_cgroups.listener_cgroups(tmp_path) == {}
    (tmp_path / "cgroup.controllers").touch()
    assert listener_cgroups.listener_cgroups(tmp_path) == {7: "/system.slice/llm.service"}


def test_kernel_of_this_host_reports_the_cgroup_of_a_socket_that_was_just_opened() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert os.fstat(server.fileno()).st_ino in dict(listener_cgroups._dump(socket.AF_INET))
