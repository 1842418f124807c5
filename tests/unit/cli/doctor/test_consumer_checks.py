"""Checks of consumers: attribution of memory, busy routes, and which checks are listed as passed."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gpumand.cli.doctor.checks import CHECKS, examine, passed
from gpumand.cli.doctor.finding import Severity, note
from gpumand.cli.doctor.probes import probe_consumers
from gpumand.cli.render.doctor import as_json, doctor_lines
from gpumand.cli.render.theme import Theme
from gpumand.domain.consumer import BusyReport, BusyRoute, Health, HealthRoute
from tests.unit.cli import samples
from tests.unit.cli.doctor.healthy_host import HEALTHY, findings, only_finding, settings, spec, status, unit


def test_vram_managed_without_a_unit_is_a_warning_with_the_missing_line() -> None:
    managed = spec("ollama", unit="", vram_managed=True)
    finding = only_finding(replace(HEALTHY, config=settings(spec("mvoice"), managed)), "attribution")
    assert (finding.severity, finding.what) == (Severity.WARNING, "ollama has vram_managed = true, but no unit")
    assert finding.fix.startswith('[consumers.ollama] unit = "')
    assert "counts twice" in finding.why
    with_unit = replace(managed, unit="ollama.service")
    assert findings(replace(HEALTHY, config=settings(with_unit)), "attribution") == []


def test_vram_managed_without_a_unit_is_found_in_the_status_when_the_files_cannot_be_read() -> None:
    entries = [
        samples.consumer("ollama", vram_managed=True, unit=""),
        samples.consumer("tts", vram_managed=True, unit="tts.service"),
    ]
    facts = replace(HEALTHY, config=replace(HEALTHY.config, settings=None), status=status(consumers=entries))
    assert [one.what.partition(" ")[0] for one in findings(facts, "attribution")] == ["ollama"]


@pytest.mark.parametrize("answered", [400, 401, 404])
def test_a_busy_route_that_refuses_the_question_is_a_warning(answered: int) -> None:
    asked = spec("mvoice", busy=BusyRoute("/slots", ("/*/is_processing",)))
    report = BusyReport(None, error=f"busy route answered {answered}: no", status=answered)
    facts = replace(HEALTHY, config=settings(asked, spec("comfyui")), busy={"mvoice": report})
    finding = only_finding(facts, "busy checks")
    assert (finding.severity, finding.what) == (Severity.WARNING, f"mvoice: busy route answered {answered}: no")
    assert "counts it as busy while clients are connected" in finding.why
    assert finding.fix == "curl -sv http://127.0.0.1:9200/slots"


def test_a_busy_route_that_answers_or_is_silent_is_no_finding() -> None:
    for report in (BusyReport(0, status=200), BusyReport(3, status=200), BusyReport(None, error="no answer")):
        assert findings(replace(HEALTHY, busy={"mvoice": report}), "busy checks") == []


@pytest.mark.parametrize(
    ("declared", "peak", "is_advised"),
    [(13000, 448, False), (13000, 600, False), (13000, 9000, True), (448, 13000, True), (2000, 500, False)],
)
def test_a_context_without_a_model_is_never_advised_as_a_footprint(declared: int, peak: int, is_advised: bool) -> None:
    entries = [samples.consumer("comfyui", vram_resident_mib=declared, lazy=True)]
    facts = replace(HEALTHY, status=status(consumers=entries), learned={"comfyui": {"peak_mib": peak, "stays": 2}})
    assert [f"vram_resident_mib = {peak}" in one.fix for one in findings(facts, "footprints")] == [True] * is_advised


def test_a_footprint_larger_than_every_device_is_not_advised_to_be_lowered() -> None:
    entries = [samples.consumer("comfyui", vram_resident_mib=30000)]
    finding = only_finding(replace(HEALTHY, status=status(consumers=entries)), "room")
    assert finding.fix == "configure a smaller model; correct vram_resident_mib only if it is not the peak under load"


@pytest.mark.parametrize("faulty", list(CHECKS))
def test_no_check_is_listed_as_passed_if_its_group_has_a_finding(faulty: str) -> None:
    results = {**examine(HEALTHY), faulty: [note("a fact")]}
    group = {name for name, check in CHECKS.items() if check.group == CHECKS[faulty].group}
    assert faulty in group
    assert set(passed(results)) == set(CHECKS) - group
    assert set(as_json(results, is_healthy=True)["good"]) == set(CHECKS) - group
    (line,) = [line.plain for line in doctor_lines(results, Theme(width=2000)) if line.plain.startswith("passed: ")]
    assert group.isdisjoint(line.removeprefix("passed: ").split(", "))


class Server:
    """Counts the questions by path; answers /health with a fixed document, and /slots with 400."""

    def __init__(self, document: bytes) -> None:
        self.document = document
        self.asked: list[str] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readline()).split()[1].decode()
        self.asked.append(path)
        head, body = (b"200 OK", self.document) if path == "/health" else (b"400 Bad Request", b"no model")
        writer.write(b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (head, len(body)) + body)
        await writer.drain()
        writer.close()


@pytest.mark.parametrize(
    ("document", "residency", "is_asked"),
    [
        (b'{"loaded": true}', "unknown", True),
        (b'{"loaded": false}', "resident", False),
        (b"{}", "resident", True),
        (b"{}", "unloaded", False),
    ],
)
async def test_only_a_consumer_with_a_loaded_model_is_asked_for_its_work(
    document: bytes, residency: str, is_asked: bool
) -> None:
    """Some servers load or wake their model for any other question."""
    server = Server(document)
    listening = await asyncio.start_server(server.answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    one = spec("llm", url=url, health=HealthRoute("/health", loaded="/loaded"), busy=BusyRoute("/slots", ("/*/x",)))
    entries = [samples.consumer("llm", residency, vram_resident_mib=2867)]
    async with listening:
        found = await probe_consumers(replace(HEALTHY, config=settings(one), status=status(consumers=entries)))
    assert server.asked == (["/health", "/slots"] if is_asked else ["/health"])
    assert [one.status for one in found.busy.values()] == ([400] if is_asked else [])
    assert len(findings(found, "busy checks")) == is_asked


def test_consumers_that_share_a_server_and_ask_it_the_same_are_a_warning() -> None:
    one, two = (spec(name, unit="ollama.service", preset="ollama") for name in ("mvoice", "comfyui"))
    facts = replace(HEALTHY, config=settings(one, two), units={"ollama.service": unit("ollama.service")})
    (finding,) = findings(facts, "shared servers")
    assert finding.severity is Severity.WARNING
    assert finding.what.startswith("mvoice and comfyui share the server http://127.0.0.1:9200")
    assert finding.fix == "Set model in each of them, or configure one consumer for the server"


def test_command_for_a_server_on_a_unix_socket_can_be_run() -> None:
    failing = {"mvoice": Health(False, error="health route: timed out")}
    own = settings(spec("mvoice", url="http://unix:/run/m.sock:/base"))
    fix = only_finding(replace(HEALTHY, config=own, routes=failing), "routes").fix
    assert fix == "curl -sv --unix-socket /run/m.sock http://localhost/base/health"
