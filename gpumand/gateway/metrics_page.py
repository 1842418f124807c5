"""Writes the /metrics page of the gateway."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TypeVar

from gpumand.gateway.job_ends import JobEnd
from gpumand.gateway.metrics import GatewayMetrics
from gpumand.gateway.requests import Client, RequestTable, State
from gpumand.gateway.visibility import may_see
from gpumand.http.prometheus_format import Samples, counters, gauge, histogram
from gpumand.version import VERSION

T = TypeVar("T")


def metrics_page(metrics: GatewayMetrics, table: RequestTable, spool_bytes: int, client: Client) -> str:
    """The page in the text format of Prometheus.

    Args:
        metrics: what was measured since the process started.
        table: the requests in flight.
        spool_bytes: size of the uploads that are kept on disk while they wait.
        client: the client that gets it.
    """
    if client.consumers is not None:
        # The size of the uploads is that of all clients.
        metrics = _visible(metrics, client)
        lines = [*_info(), *_requests(metrics), *_in_flight(metrics, table, client)]
        return "\n".join([*lines, *_leases(metrics), *_histograms(metrics), ""])
    lines = [
        *_info(),
        *_requests(metrics),
        *_in_flight(metrics, table, client),
        *_leases(metrics),
        *_histograms(metrics),
    ]
    meaning = "Size of the uploads that are kept on disk while they wait."
    return "\n".join([*lines, *gauge("gpumand_gateway_spool_bytes", meaning, [({}, spool_bytes)]), ""])


def _info() -> Iterator[str]:
    yield from gauge("gpumand_gateway_info", "Version of the gateway.", [({"version": VERSION}, 1)])


def _requests(metrics: GatewayMetrics) -> Iterator[str]:
    samples: Samples = [
        ({"consumer": consumer, "class": kind, "status": status}, count)
        for (consumer, kind, status), count in sorted(metrics.requests.items())
    ]
    meaning = "Ended requests, by consumer, route class and HTTP status."
    yield from counters("gpumand_gateway_requests_total", meaning, samples)
    meaning = "Requests whose client left before the end of the answer."
    yield from counters("gpumand_gateway_client_gone_total", meaning, _by_consumer(metrics.gone))
    meaning = "Time that clients were kept with signs of life."
    yield from counters("gpumand_gateway_drip_seconds_total", meaning, _by_consumer(metrics.dripped_sec))


def _visible(metrics: GatewayMetrics, client: Client) -> GatewayMetrics:
    """What was measured of the consumers that a client may use."""

    def only(values: Mapping[str, T]) -> dict[str, T]:
        return {name: value for name, value in values.items() if may_see(client, name)}

    found = GatewayMetrics()
    found.requests = Counter({key: count for key, count in metrics.requests.items() if may_see(client, key[0])})
    found.jobs = Counter({key: count for key, count in metrics.jobs.items() if may_see(client, key[0])})
    found.turns, found.gone = Counter(only(metrics.turns)), Counter(only(metrics.gone))
    found.waits, found.answers, found.dripped_sec = (
        only(metrics.waits),
        only(metrics.answers),
        only(metrics.dripped_sec),
    )
    return found


def _in_flight(metrics: GatewayMetrics, table: RequestTable, client: Client) -> Iterator[str]:
    shown = (one for one in table if may_see(client, one.consumer))
    counts = Counter((metrics.label(entry.consumer), entry.state) for entry in shown)
    # Consumers without requests have the value 0, so that a graph falls to it.
    consumers = sorted({consumer for consumer, _ in counts} | {consumer for consumer, _, _ in metrics.requests})
    samples: Samples = [
        ({"consumer": consumer, "state": state.value}, counts[consumer, state])
        for consumer in consumers
        for state in State
    ]
    meaning = "Requests in flight and held jobs, by consumer and state."
    yield from gauge("gpumand_gateway_requests_in_flight", meaning, samples)
    # All ends of a consumer that has jobs are shown, so that its first end without an answer counts as an increase.
    consumers = sorted(
        {consumer for consumer, state in counts if state is State.JOB} | {one for one, _ in metrics.jobs}
    )
    ended: Samples = [
        ({"consumer": consumer, "end": end.value}, metrics.jobs[consumer, end.value])
        for consumer in consumers
        for end in JobEnd
    ]
    yield from counters("gpumand_gateway_jobs_total", "Jobs that are no longer held, by consumer and reason.", ended)


def _leases(metrics: GatewayMetrics) -> Iterator[str]:
    yield from counters("gpumand_gateway_turns_total", "Granted leases.", _by_consumer(metrics.turns))


def _histograms(metrics: GatewayMetrics) -> Iterator[str]:
    meaning = "Time that requests have waited for a lease."
    yield from histogram("gpumand_gateway_wait_seconds", meaning, "consumer", metrics.waits)
    meaning = "Time from a request to the first byte of the answer of the consumer."
    yield from histogram("gpumand_gateway_first_byte_seconds", meaning, "consumer", metrics.answers)


def _by_consumer(values: Counter[str] | dict[str, float]) -> Samples:
    return [({"consumer": consumer}, value) for consumer, value in sorted(values.items())]
