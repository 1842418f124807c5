"""The journal handler, against a socket that records the datagrams."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpumand.log.journal import MAX_MESSAGE_CHARS, FloodGuard, JournalHandler
from gpumand.log.message_ids import MessageId, fields

GRANT, EVICTION = MessageId.GRANT, MessageId.EVICTION


class Journal:
    """A socket in place of journald."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)

    def entry(self) -> dict[str, str]:
        """The next entry. Raises BlockingIOError when there is none."""
        return parsed(self.socket.recv(1 << 20))

    def is_full(self) -> bool:
        """Whether the socket accepts no further datagram."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as trying:
            trying.setblocking(False)
            try:
                trying.sendto(b"MESSAGE=filler\n", self.socket.getsockname())
            except BlockingIOError:
                return True
        return False


def parsed(octets: bytes) -> dict[str, str]:
    """Parse a datagram in the way journald does."""
    found: dict[str, str] = {}
    while octets:
        line, _, octets = octets.partition(b"\n")
        name, is_line, value = line.partition(b"=")
        if not is_line:
            length = int.from_bytes(octets[:8], "little")
            value, octets = octets[8 : 8 + length], octets[8 + length + 1 :]
        assert name.decode() not in found
        found[name.decode()] = value.decode()
    return found


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    instance = Journal(tmp_path / "journal")
    yield instance
    instance.socket.close()


@pytest.fixture
def handler(tmp_path: Path) -> Iterator[JournalHandler]:
    instance = JournalHandler(str(tmp_path / "journal"))
    yield instance
    instance.close()


@pytest.fixture
def log(handler: JournalHandler) -> logging.Logger:
    instance = logging.Logger("gpumand.test", logging.DEBUG)
    instance.addHandler(handler)
    return instance


def test_record_is_sent_with_code_location_and_fields(journal: Journal, log: logging.Logger) -> None:
    log.warning("evicted %s", "ollama", extra=fields(EVICTION, consumer="ollama", freed_mib=9000))
    entry = journal.entry()
    line = int(entry.pop("CODE_LINE"))
    assert "evicted %s" in Path(__file__).read_text(encoding="utf-8").splitlines()[line - 1]
    assert entry == {
        "MESSAGE": "evicted ollama",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "gpumand",
        "CODE_FILE": __file__,
        "CODE_FUNC": "test_record_is_sent_with_code_location_and_fields",
        "LOGGER": "gpumand.test",
        "MESSAGE_ID": EVICTION.value,
        "GPUMAND_CONSUMER": "ollama",
        "GPUMAND_FREED_MIB": "9000",
    }


@pytest.mark.parametrize(("level", "priority"), [(10, "7"), (20, "6"), (25, "6"), (30, "4"), (40, "3"), (50, "2")])
def test_log_levels_map_to_journal_priorities(journal: Journal, log: logging.Logger, level: int, priority: str) -> None:
    log.log(level, "x")
    assert journal.entry()["PRIORITY"] == priority


def test_value_with_line_breaks_cannot_inject_fields(journal: Journal, log: logging.Logger) -> None:
    hostile = "a\n_UID=0\nMESSAGE_ID=00000000000000000000000000000000\n\ud800é\0"
    log.info(hostile, extra=fields(EVICTION, consumer=hostile))
    entry = journal.entry()
    assert entry["MESSAGE"] == entry["GPUMAND_CONSUMER"] == hostile.replace("\ud800", "?")
    assert entry["MESSAGE_ID"] == EVICTION.value
    assert "_UID" not in entry


def test_traceback_is_sent_completely(journal: Journal, log: logging.Logger) -> None:
    try:
        raise RuntimeError("injected")
    except RuntimeError:
        log.exception("it failed")
    lines = journal.entry()["MESSAGE"].splitlines()
    assert (lines[0], lines[-1]) == ("it failed", "RuntimeError: injected")


def test_long_message_is_truncated_with_a_note(journal: Journal, log: logging.Logger) -> None:
    log.info("x" * 10_000_000, extra=fields(EVICTION, why="y" * 10_000_000))
    entry = journal.entry()
    assert entry["MESSAGE"].startswith("x" * MAX_MESSAGE_CHARS + "… (")
    assert entry["MESSAGE"].endswith(f"({10_000_000 - MAX_MESSAGE_CHARS} more characters)")
    assert len(entry["GPUMAND_WHY"]) < 3000


def test_full_journal_does_not_block_and_losses_are_reported(
    journal: Journal, handler: JournalHandler, log: logging.Logger
) -> None:
    while not journal.is_full():
        pass
    log.info("lost")
    log.info("lost too")
    assert handler.dropped == 2
    while True:
        try:
            assert "lost" not in journal.entry()["MESSAGE"]
        except BlockingIOError:
            break
    log.info("heard")
    assert journal.entry()["MESSAGE"] == "2 log messages were lost: the journal did not accept new entries at that time"
    assert journal.entry()["MESSAGE"] == "heard"
    assert handler.dropped == 0


def test_restarted_journal_receives_messages_again(
    tmp_path: Path, handler: JournalHandler, log: logging.Logger
) -> None:
    log.info("before it is there")
    journal = Journal(tmp_path / "journal")
    log.info("first life")
    assert journal.entry()["MESSAGE"].startswith("1 log message was lost")
    assert journal.entry()["MESSAGE"] == "first life"
    journal.socket.close()
    (tmp_path / "journal").unlink()
    log.info("between")
    journal = Journal(tmp_path / "journal")
    log.info("second life")
    assert journal.entry()["MESSAGE"].startswith("1 log message was lost")
    assert journal.entry()["MESSAGE"] == "second life"
    journal.socket.close()


def test_flood_of_one_kind_is_suppressed_and_counted() -> None:
    now = 100.0
    guard = FloodGuard(burst=3, interval_sec=30.0, now=lambda: now)

    def passes(message: MessageId | None) -> logging.LogRecord | None:
        record = logging.LogRecord("x", 20, "x.py", 1, "x", None, None)
        vars(record).update(fields(message) if message else {})
        return record if guard.filter(record) else None

    assert [passes(GRANT) is not None for _ in range(5)] == [True] * 3 + [False] * 2
    assert passes(MessageId.REFUSAL) is not None, "each kind has a limit of its own"
    assert all(passes(EVICTION) is not None and passes(None) is not None for _ in range(10)), "these have none"
    now = 131.0
    record = passes(GRANT)
    assert record is not None
    assert vars(record)["GPUMAND_HELD_BACK"] == 2
