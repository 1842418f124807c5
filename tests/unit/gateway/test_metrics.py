"""What the gateway measures, as Prometheus reads it."""

from __future__ import annotations

from gpumand.gateway.job_ends import JobEnd
from gpumand.gateway.metrics import MAX_CONSUMERS, GatewayMetrics
from gpumand.gateway.metrics_page import metrics_page
from gpumand.gateway.requests import Client, Entry, RequestTable, State, WaitLimits
from gpumand.gateway.routes.classes import RouteClass
from tests.exposition import Labels, Samples, parsed


def entry(consumer: str = "llm", status: int = 200, kind: RouteClass = RouteClass.WORK, **more: float) -> Entry:
    made = Entry(1, Client("127.0.0.1"), consumer, "POST", "/v1/chat/completions", kind, 0.0)
    made.status = status
    for name, value in more.items():
        setattr(made, name, value)
    return made


def page(metrics: GatewayMetrics, table: RequestTable | None = None, spool_bytes: int = 0) -> Samples:
    return parsed(metrics_page(metrics, table or RequestTable(WaitLimits()), spool_bytes, Client("")))


def of(consumer: str, **more: str) -> Labels:
    return tuple(sorted({"consumer": consumer, **more}.items()))


def test_ended_requests_are_counted_by_consumer_class_and_status() -> None:
    metrics = GatewayMetrics()
    for one in (entry(), entry(), entry(status=503), entry("tts", 499), entry(kind=RouteClass.LOOK)):
        metrics.request_ended(one)
    found = page(metrics)

    total = "gpumand_gateway_requests_total"
    counts = {
        dict(labels)["consumer"] + dict(labels)["class"] + dict(labels)["status"]: value
        for (name, labels), value in found.items()
        if name == total
    }
    assert counts == {"llmwork200": 2, "llmwork503": 1, "ttswork499": 1, "llmlook200": 1}
    assert found["gpumand_gateway_client_gone_total", of("tts")] == 1
    assert found["gpumand_gateway_client_gone_total", of("llm")] == 0


def test_status_that_a_server_invents_makes_no_new_series_for_each_number() -> None:
    metrics = GatewayMetrics()
    for status in (0, 99, 600, 999, 7777):
        metrics.request_ended(entry(status=status))

    assert metrics.requests == {("llm", "work", "invalid"): 5}


def test_waits_first_bytes_drips_and_leases_are_measured() -> None:
    metrics = GatewayMetrics()
    metrics.request_ended(entry(waited_sec=40.0, answered_sec=41.0, dripped_sec=30.0))
    metrics.request_ended(entry(answered_sec=0.004))
    metrics.request_ended(entry(status=503))
    for _ in range(3):
        metrics.turn_opened("llm")
    found = page(metrics, spool_bytes=4096)

    assert found["gpumand_gateway_wait_seconds_count", of("llm")] == 1
    assert found["gpumand_gateway_wait_seconds_sum", of("llm")] == 40.0
    assert found["gpumand_gateway_first_byte_seconds_count", of("llm")] == 2
    assert found["gpumand_gateway_first_byte_seconds_bucket", of("llm", le="0.01")] == 1
    assert found["gpumand_gateway_drip_seconds_total", of("llm")] == 30.0
    assert found["gpumand_gateway_turns_total", of("llm")] == 3
    assert found["gpumand_gateway_spool_bytes", ()] == 4096


async def test_requests_in_flight_are_shown_by_state_and_fall_to_zero() -> None:
    metrics, table = GatewayMetrics(), RequestTable(WaitLimits())
    running = table.add(Client("a"), "llm", "POST", "/", RouteClass.WORK)
    waiting = table.add(Client("a"), "llm", "POST", "/", RouteClass.WORK)
    table.begin_wait(waiting)
    name = "gpumand_gateway_requests_in_flight"
    found = page(metrics, table)
    assert found[name, of("llm", state="running")] == 1
    assert found[name, of("llm", state="waiting")] == 1

    for one in (running, waiting):
        table.remove(one)
        metrics.request_ended(one)
    found = page(metrics, table)
    assert {found[name, of("llm", state=state.value)] for state in State} == {0}


def test_consumers_above_the_limit_share_a_label() -> None:
    metrics = GatewayMetrics()
    for number in range(MAX_CONSUMERS + 20):
        metrics.request_ended(entry(f"c{number}"))
    found = page(metrics)

    consumers = {dict(labels).get("consumer") for _, labels in found} - {None}
    assert len(consumers) == MAX_CONSUMERS + 1
    assert found["gpumand_gateway_requests_total", of("_other", **{"class": "work", "status": "200"})] == 20


async def test_held_jobs_are_counted_while_they_are_held_and_by_their_end() -> None:
    metrics, table = GatewayMetrics(), RequestTable(WaitLimits())
    for _ in range(2):
        table.add_job(Client("alice"), "comfyui", "POST", "/prompt", 0.0, lambda: None)
    assert page(metrics, table)["gpumand_gateway_jobs_total", of("comfyui", end="no_answer")] == 0
    metrics.job_ended("comfyui", JobEnd.IDLE)
    metrics.job_ended("comfyui", JobEnd.NO_ANSWER)
    found = page(metrics, table)

    in_flight = "gpumand_gateway_requests_in_flight"
    assert [found[in_flight, of("comfyui", state=one)] for one in ("waiting", "running", "job")] == [0, 0, 2]
    assert found["gpumand_gateway_jobs_total", of("comfyui", end="idle")] == 1
    assert found["gpumand_gateway_jobs_total", of("comfyui", end="no_answer")] == 1
