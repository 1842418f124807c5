"""Setup of logging: target and level."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpumand.log import logging_setup
from gpumand.log.message_ids import ROUTINE_LOGGER, MessageId, fields


@pytest.fixture(autouse=True)
def root() -> Iterator[logging.Logger]:
    """The root logger, restored after the test."""
    one = logging.getLogger()
    handlers, level = one.handlers[:], one.level
    yield one
    for handler in one.handlers:
        if handler not in handlers:
            handler.close()
    one.handlers[:] = handlers
    one.setLevel(level)
    logging.getLogger(ROUTINE_LOGGER).setLevel(logging.NOTSET)


class Stream:
    """A socket as stderr, like the one that systemd passes to a service."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.file = self.ours.makefile("w")
        self.theirs.settimeout(30)

    def replace_stderr(self) -> None:
        """Replace stderr; called in the test itself, because pytest replaces stderr before it."""
        info = os.fstat(self.ours.fileno())
        self._monkeypatch.setattr(sys, "stderr", self.file)
        self._monkeypatch.setenv("JOURNAL_STREAM", f"{info.st_dev}:{info.st_ino}")

    def close(self) -> None:
        self.file.close()
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stream]:
    instance = Stream(monkeypatch)
    yield instance
    instance.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as instance:
        instance.bind(str(tmp_path / "journal"))
        instance.settimeout(30)
        yield instance


def test_service_logs_to_the_journal_with_fields(stream: Stream, journal: socket.socket) -> None:
    stream.replace_stderr()
    logging_setup.setup_logging("info", journal.getsockname())
    logging.getLogger(ROUTINE_LOGGER).info("granted", extra=fields(MessageId.GRANT, lease="cafe"))
    entry = journal.recv(65536)
    assert b"MESSAGE=granted\n" in entry
    assert b"GPUMAND_LEASE=cafe\n" in entry
    assert logging_setup.target() == "journal"


def test_without_journal_socket_stderr_lines_have_priorities(stream: Stream, tmp_path: Path) -> None:
    stream.replace_stderr()
    logging_setup.setup_logging("info", str(tmp_path / "nothing"))
    logging.getLogger("x").error("two\nlines")
    assert stream.theirs.recv(4096) == b"<3>two\n<3>lines\n"
    assert logging_setup.target() == "console"


def test_terminal_gets_timestamped_lines_without_grants(
    capsys: pytest.CaptureFixture[str], journal: socket.socket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1234")  # inherited from a service, but stderr has been redirected
    with (tmp_path / "stderr").open("w+") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        logging_setup.setup_logging("info", journal.getsockname())
        logging.getLogger(ROUTINE_LOGGER).info("granted")
        logging.getLogger("x").warning("evicted")
        logging_setup.set_level("debug")
        logging.getLogger(ROUTINE_LOGGER).info("granted in detail")
        stderr.flush()
        lines = (tmp_path / "stderr").read_text(encoding="utf-8").splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines] == ["WARNING evicted", "INFO    granted in detail"]


@pytest.mark.parametrize("name", list(logging_setup.LEVELS))
def test_level_returns_the_level_that_was_set(name: str) -> None:
    logging_setup.set_level(name)
    assert logging_setup.level() == name


def test_level_notice_hides_info_messages(root: logging.Logger) -> None:
    logging_setup.set_level("notice")
    assert not root.isEnabledFor(logging.INFO)
    assert root.isEnabledFor(logging.WARNING)


@pytest.mark.parametrize(("value", "level"), [("1", "debug"), ("", "info"), ("0", "info"), (None, "info")])
def test_debug_invocation_of_systemd_sets_level_debug(value: str | None, level: str) -> None:
    assert logging_setup.default_level({} if value is None else {"DEBUG_INVOCATION": value}) == level
