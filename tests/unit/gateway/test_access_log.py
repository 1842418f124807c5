"""The access log: its facts and limits, and nothing that a client could break out of a line with."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from gpumand.gateway import access_log
from gpumand.gateway.access_log import AccessLog, RequestGuard, Visit, printable
from gpumand.gateway.requests import NAMED_MODEL, Client, Entry
from gpumand.gateway.routes.classes import RouteClass
from gpumand.log.message_ids import MessageId, fields


class Request(dict[str, Any]):
    """A request with a method and a target."""

    def __init__(
        self, method: str = "POST", raw_path: str = "/v1/chat/completions?key=secret", model: str = ""
    ) -> None:
        super().__init__({NAMED_MODEL: model})
        self.method, self.raw_path = method, raw_path


def visit(request: Request, entry: Entry | None = None, status: int = 200) -> Visit:
    return Visit(request, "gateway", "nightly", 0.0, entry, status)  # type: ignore[arg-type]


def served() -> Entry:
    entry = Entry(7, Client("nightly"), "llama", "POST", "/v1/chat/completions", RouteClass.WORK, 0.0)
    entry.waited_sec, entry.answered_sec, entry.sent_bytes = 1.5, 2.25, 1840
    return entry


async def test_line_has_client_model_status_wait_and_size_but_no_query(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    AccessLog(lambda: True).write(visit(Request(model="qwen3"), served()), 0)

    (record,) = caplog.records
    assert record.getMessage().startswith(
        "nightly at gateway: POST /v1/chat/completions 200: consumer llama, model qwen3"
    )
    assert record.getMessage().endswith("waited 1.500 s, first byte after 2.250 s, 1840 bytes")
    named = {name: value for name, value in vars(record).items() if name.startswith("GPUMAND_")}
    assert named.pop("GPUMAND_DURATION_USEC") > 0
    assert named == {
        "GPUMAND_CLIENT": "nightly",
        "GPUMAND_LISTENER": "gateway",
        "GPUMAND_METHOD": "POST",
        "GPUMAND_PATH": "/v1/chat/completions",
        "GPUMAND_STATUS": 200,
        "GPUMAND_MODEL": "qwen3",
        "GPUMAND_SENT_BYTES": 1840,
        "GPUMAND_CONSUMER": "llama",
        "GPUMAND_CLASS": "work",
        "GPUMAND_REQUEST": 7,
        "GPUMAND_WAITED_USEC": 1_500_000,
        "GPUMAND_FIRST_BYTE_USEC": 2_250_000,
    }


async def test_no_line_is_written_unless_the_configuration_asks_for_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    AccessLog(lambda: False).write(visit(Request()), 0)
    assert not caplog.records


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nGPUMAND_CLIENT=root", "a\\nGPUMAND_CLIENT=root"),
        ("\x1b[2J\r\x00", "\\x1b[2J\\r\\x00"),
        ("a\u202eb\u2028c", "a\\u202eb\\u2028c"),
        ("\ud800", "\\ud800"),
        ("größe 模型", "größe 模型"),
        ("x" * 300, "x" * 255 + "…"),
        ("%s %d", "%s %d"),
    ],
)
async def test_texts_of_clients_are_one_line_and_short(caplog: pytest.LogCaptureFixture, text: str, shown: str) -> None:
    caplog.set_level("INFO")
    AccessLog(lambda: True).write(visit(Request("G" * 99, "/" + "a" * 5000, model=text)), 3)

    (record,) = caplog.records
    assert printable(text, 256) == shown
    assert f"model {shown}, " in record.getMessage()
    assert "\n" not in record.getMessage()
    assert (len(vars(record)["GPUMAND_METHOD"]), len(vars(record)["GPUMAND_PATH"])) == (32, 200)


def test_flood_of_requests_leaves_room_in_the_journal_for_errors() -> None:
    now = [0.0]
    guard = RequestGuard(3, 30.0, now=lambda: now[0])
    records = [logging.makeLogRecord(fields(MessageId.GATEWAY_REQUEST)) for _ in range(6)]
    assert [guard.filter(one) for one in records[:5]] == [True, True, True, False, False]
    assert guard.filter(logging.makeLogRecord({"levelno": logging.ERROR}))

    now[0] = 30.0
    assert guard.filter(records[5])
    assert vars(records[5])["GPUMAND_HELD_BACK"] == 2
    assert access_log.LINES < 10_000


def test_logger_limits_its_lines() -> None:
    """Once, even where a process has several gateways: each further limit would count the same lines again."""
    AccessLog(lambda: True)
    AccessLog(lambda: True)
    assert sum(isinstance(one, RequestGuard) for one in access_log.log.filters) == 1


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("http://me:secret@gpu:8770/v1/models?key=secret", "gpu:8770/v1/models"),
        ("http://gpu:8770/v1/models", "http://gpu:8770/v1/models"),
        ("me:secret@gpu:8770", "gpu:8770"),
        ("/models/@latest", "/models/@latest"),
        ("*", "*"),
    ],
)
async def test_password_in_the_target_of_a_proxy_request_is_not_logged(target: str, shown: str) -> None:
    named = access_log.facts(visit(Request("GET", target)), 0)

    assert named["path"] == shown
