"""Message ids, and the journal catalog that explains them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpumand.arbiter import log_messages
from gpumand.domain.errors import Busy
from gpumand.domain.events import EvictionReport
from gpumand.domain.lease import Lease, LeaseLifetime, Owner
from gpumand.gateway.access_log import log_request
from gpumand.log.message_ids import ROUTINE_LOGGER, MessageId, fields

CATALOG = Path(__file__).parents[3] / "systemd" / "gpumand.catalog"
OWNER = Owner(":1.5", 1000, 4711)
LEASE = Lease("cafe", "ollama", "0", OWNER, LeaseLifetime.TTL, granted_usec=1)
REQUEST: dict[str, object] = {
    "client": "nightly",
    "listener": "gateway",
    "method": "GET",
    "path": "/",
    "status": 200,
    "duration_usec": 5,
    "sent_bytes": 7,
}
REPORT = EvictionReport(
    "ollama", "0", 9000, "http", "comfyui", why="least recently used", expected_mib=9216, tried=("http",)
)


def entries() -> dict[str, str]:
    parts = re.split(r"^-- ([0-9a-f]{32})$", CATALOG.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_catalog_explains_exactly_the_known_messages() -> None:
    assert sorted(entries()) == sorted(message.value for message in MessageId)


def test_ids_have_128_bits_and_are_unique() -> None:
    assert all(re.fullmatch(r"[0-9a-f]{32}", message.value) for message in MessageId)
    assert len({message.value for message in MessageId}) == len(MessageId)


@pytest.mark.parametrize("message", list(MessageId))
def test_every_catalog_entry_has_subject_and_origin(message: MessageId) -> None:
    entry = entries()[message.value]
    assert re.match(r"\nSubject: \S.*\nDefined-By: gpumand\n(Documentation: .*\n)?\n\S", entry)
    assert all(len(line) <= 80 for line in entry.splitlines()), "catalog texts are read on a terminal"


def logged_fields(caplog: pytest.LogCaptureFixture) -> dict[str, dict[str, object]]:
    """The fields that each message is logged with, by message id."""
    caplog.set_level("INFO")
    caplog.set_level("INFO", ROUTINE_LOGGER)
    log_messages.eviction(REPORT)
    log_messages.eviction_failed(
        EvictionReport("ollama", "0", 0, "http", "comfyui", why="w", error="it did not answer")
    )
    log_messages.grant(LEASE)
    log_messages.refusal("ollama", OWNER, Busy("no"))
    log_messages.degraded("nvml-missing: no library")
    log_request(REQUEST)
    return {vars(record)["MESSAGE_ID"]: vars(record) for record in caplog.records}


def test_fields_used_by_the_catalog_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    logged = logged_fields(caplog)
    assert set(logged) == {message.value for message in MessageId}
    for message, entry in entries().items():
        missing = set(re.findall(r"@([A-Z_]+)@", entry)) - set(logged[message])
        assert not missing, f"{MessageId(message).name}: the catalog shows {missing}, which is not logged"


def test_eviction_message_has_all_facts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    log_messages.eviction(REPORT)
    for fact in ("ollama", "for comfyui", "by http", "9000 MiB freed", "9216 MiB expected", "least recently used"):
        assert fact in caplog.messages[0]
    assert vars(caplog.records[0])["GPUMAND_EXPECTED_MIB"] == 9216
    assert vars(caplog.records[0])["GPUMAND_FREED_MIB"] == 9000


def test_message_has_the_code_location_of_its_caller(caplog: pytest.LogCaptureFixture) -> None:
    assert all(record["funcName"] == logged_fields.__name__ for record in logged_fields(caplog).values())


def test_unset_fields_are_omitted_but_zero_is_kept() -> None:
    assert fields(MessageId.GRANT, lease="", device=None, freed_mib=0) == {
        "MESSAGE_ID": MessageId.GRANT.value,
        "GPUMAND_FREED_MIB": 0,
    }
