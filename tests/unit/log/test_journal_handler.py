"""Log records on their way into the journal, against a socket that notes what it gets."""

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
    """journald's end."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)

    def entry(self) -> dict[str, str]:
        """The next entry. Raises BlockingIOError when there is none."""
        return parsed(self.socket.recv(1 << 20))

    def full(self) -> bool:
        """Whether it takes no more."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as trying:
            trying.setblocking(False)
            try:
                trying.sendto(b"MESSAGE=filler\n", self.socket.getsockname())
            except BlockingIOError:
                return True
        return False


def parsed(octets: bytes) -> dict[str, str]:
    """As journald reads it."""
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
    made = Journal(tmp_path / "journal")
    yield made
    made.socket.close()


@pytest.fixture
def handler(tmp_path: Path) -> Iterator[JournalHandler]:
    made = JournalHandler(str(tmp_path / "journal"))
    yield made
    made.close()


@pytest.fixture
def log(handler: JournalHandler) -> logging.Logger:
    made = logging.Logger("gpumand.test", logging.DEBUG)
    made.addHandler(handler)
    return made


def test_a_record_goes_with_its_place_and_its_fields(journal: Journal, log: logging.Logger) -> None:
    log.warning("evicted %s", "ollama", extra=fields(EVICTION, consumer="ollama", freed_mib=9000))
    entry = journal.entry()
    line = int(entry.pop("CODE_LINE"))
    assert "evicted %s" in Path(__file__).read_text(encoding="utf-8").splitlines()[line - 1]
    assert entry == {
        "MESSAGE": "evicted ollama",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "gpumand",
        "CODE_FILE": __file__,
        "CODE_FUNC": "test_a_record_goes_with_its_place_and_its_fields",
        "LOGGER": "gpumand.test",
        "MESSAGE_ID": EVICTION.value,
        "GPUMAND_CONSUMER": "ollama",
        "GPUMAND_FREED_MIB": "9000",
    }


@pytest.mark.parametrize(("level", "priority"), [(10, "7"), (20, "6"), (25, "6"), (30, "4"), (40, "3"), (50, "2")])
def test_levels_are_priorities(journal: Journal, log: logging.Logger, level: int, priority: str) -> None:
    log.log(level, "x")
    assert journal.entry()["PRIORITY"] == priority


def test_no_value_makes_up_further_fields(journal: Journal, log: logging.Logger) -> None:
    hostile = "a\n_UID=0\nMESSAGE_ID=00000000000000000000000000000000\n\ud800é\0"
    log.info(hostile, extra=fields(EVICTION, consumer=hostile))
    entry = journal.entry()
    assert entry["MESSAGE"] == entry["GPUMAND_CONSUMER"] == hostile.replace("\ud800", "?")
    assert entry["MESSAGE_ID"] == EVICTION.value
    assert "_UID" not in entry


def test_a_traceback_comes_whole(journal: Journal, log: logging.Logger) -> None:
    try:
        raise RuntimeError("injected")
    except RuntimeError:
        log.exception("it failed")
    lines = journal.entry()["MESSAGE"].splitlines()
    assert (lines[0], lines[-1]) == ("it failed", "RuntimeError: injected")


def test_what_is_too_long_is_cut_and_says_so(journal: Journal, log: logging.Logger) -> None:
    log.info("x" * 10_000_000, extra=fields(EVICTION, why="y" * 10_000_000))
    entry = journal.entry()
    assert entry["MESSAGE"].startswith("x" * MAX_MESSAGE_CHARS + "… (")
    assert entry["MESSAGE"].endswith(f"({10_000_000 - MAX_MESSAGE_CHARS} more characters)")
    assert len(entry["GPUMAND_WHY"]) < 3000


def test_a_full_journal_blocks_nobody_and_hears_of_its_losses(
    journal: Journal, handler: JournalHandler, log: logging.Logger
) -> None:
    while not journal.full():
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
    assert journal.entry()["MESSAGE"] == "2 log messages were lost: the journal did not take what it was given"
    assert journal.entry()["MESSAGE"] == "heard"
    assert handler.dropped == 0


def test_a_journal_that_is_started_anew_is_found_again(
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


def test_a_flood_of_one_kind_is_held_back_and_counted() -> None:
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
