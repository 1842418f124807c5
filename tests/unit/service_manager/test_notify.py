from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpumand.service_manager.notify import MAX_STATUS_CHARS, Notifier, watchdog_usec


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The service manager's end of the notification socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as endpoint:
        endpoint.bind(str(tmp_path / "notify"))
        endpoint.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield endpoint


@pytest.fixture
def notifier(manager: socket.socket) -> Iterator[Notifier]:
    made = Notifier()
    yield made
    made.close()


def test_notifications_have_systemds_format(manager: socket.socket, notifier: Notifier) -> None:
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


def test_reload_notification_contains_the_time(manager: socket.socket, notifier: Notifier) -> None:
    notifier.reloading()
    first, second = manager.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    assert second.removeprefix("MONOTONIC_USEC=").isdecimal()


def test_any_status_text_is_sent_as_one_line_of_ascii(manager: socket.socket, notifier: Notifier) -> None:
    """The library sdnotify would drop the whole message, including READY=1."""
    notifier.ready("é → 漢\nWATCHDOG=trigger\x00" + "x" * 10_000)
    received = manager.recv(65536).decode("ascii")
    assert received.startswith("READY=1\nSTATUS=? ? ? WATCHDOG=trigger?xxx")
    assert received.count("\n") == 1
    assert len(received) == len("READY=1\nSTATUS=") + MAX_STATUS_CHARS


def test_empty_status_is_not_sent(manager: socket.socket, notifier: Notifier) -> None:
    notifier.status(" \n")
    notifier.watchdog()
    assert manager.recv(4096) == b"WATCHDOG=1"


def test_abstract_socket_is_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as endpoint:
        endpoint.bind(f"\0gpumand-test-{os.getpid()}")
        endpoint.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@gpumand-test-{os.getpid()}")
        notifier = Notifier()
        notifier.ready()
        assert endpoint.recv(100) == b"READY=1"
        notifier.close()


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}])
def test_missing_socket_is_not_an_error(environ: dict[str, str]) -> None:
    notifier = Notifier(environ)
    notifier.ready("all is well")
    notifier.watchdog()
    notifier.close()
    assert not notifier.is_connected


def test_closed_socket_is_not_an_error(manager: socket.socket, notifier: Notifier) -> None:
    assert notifier.is_connected
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
def test_watchdog_applies_only_to_the_named_process(environ: dict[str, str], expected: int) -> None:
    assert watchdog_usec(environ) == expected
