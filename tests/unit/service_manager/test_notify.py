from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpumand.service_manager.notify import MAX_STATUS_CHARS, Notifier, watchdog_usec


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The service manager's end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield listening


@pytest.fixture
def notifier(manager: socket.socket) -> Iterator[Notifier]:
    made = Notifier()
    yield made
    made.close()


def test_what_is_said_is_what_systemd_reads(manager: socket.socket, notifier: Notifier) -> None:
    notifier.ready("2/4 consumers resident")
    notifier.status("1 lease")
    notifier.watchdog()
    notifier.extend_timeout(1.5)
    notifier.stopping()
    assert [manager.recv(4096).decode() for _ in range(5)] == [
        "READY=1\nSTATUS=2/4 consumers resident",
        "STATUS=1 lease",
        "WATCHDOG=1",
        "EXTEND_TIMEOUT_USEC=1500000",
        "STOPPING=1",
    ]


def test_a_reload_carries_its_time(manager: socket.socket, notifier: Notifier) -> None:
    notifier.reloading()
    first, second = manager.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    assert second.removeprefix("MONOTONIC_USEC=").isdecimal()


def test_a_status_of_any_text_reaches_systemd(manager: socket.socket, notifier: Notifier) -> None:
    """sdnotify would lose the whole message, READY=1 included."""
    notifier.ready("é → 漢\nWATCHDOG=trigger\x00" + "x" * 10_000)
    said = manager.recv(65536).decode("ascii")
    assert said.startswith("READY=1\nSTATUS=? ? ? WATCHDOG=trigger?xxx")
    assert said.count("\n") == 1
    assert len(said) == len("READY=1\nSTATUS=") + MAX_STATUS_CHARS


def test_an_empty_status_says_nothing(manager: socket.socket, notifier: Notifier) -> None:
    notifier.status(" \n")
    notifier.watchdog()
    assert manager.recv(4096) == b"WATCHDOG=1"


def test_an_abstract_socket_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0gpumand-test-{os.getpid()}")
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@gpumand-test-{os.getpid()}")
        notifier = Notifier()
        notifier.ready()
        assert listening.recv(100) == b"READY=1"
        notifier.close()


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}])
def test_nobody_listening_is_no_error(environ: dict[str, str]) -> None:
    notifier = Notifier(environ)
    notifier.ready("all is well")
    notifier.watchdog()
    notifier.close()
    assert not notifier.listening


def test_a_socket_that_went_away_is_no_error(manager: socket.socket, notifier: Notifier) -> None:
    assert notifier.listening
    manager.close()
    notifier.ready()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, 0),
        ({"WATCHDOG_USEC": "30000000"}, 30_000_000),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30_000_000),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0),
        ({"WATCHDOG_USEC": "-1"}, 0),
        ({"WATCHDOG_USEC": "soon"}, 0),
        ({"WATCHDOG_USEC": "³"}, 0),
    ],
)
def test_the_watchdog_is_ours_only_when_it_names_us(environ: dict[str, str], expected: int) -> None:
    assert watchdog_usec(environ) == expected
