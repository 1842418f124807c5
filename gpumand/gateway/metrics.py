"""What the gateway measures about requests and leases."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from gpumand.gateway.job_ends import JobEnd
from gpumand.gateway.requests import Entry
from gpumand.http.prometheus_format import Histogram

CLIENT_GONE = 499
"""Status of requests whose client left or closed its sending side, which looks the same."""

MAX_CONSUMERS = 64
OTHERS, OWN = "_other", "_gateway"
"""Labels of all consumers above the limit, and of requests that the gateway answers itself. Names of consumers start
with a letter or digit, so none is equal to them."""


class Metrics(Protocol):
    """Observes the gateway. No method may raise or block."""

    def request_ended(self, entry: Entry) -> None:
        """A request has ended; 499 as status means that its client left."""

    def turn_opened(self, consumer: str) -> None:
        """A lease was granted."""

    def job_ended(self, consumer: str, end: JobEnd) -> None:
        """A job is no longer held."""


class GatewayMetrics:
    """Counts and histograms since the process started.

    Attributes:
        requests: ended requests by consumer, class and status.
        waits: time that requests have waited for a lease, by consumer.
        answers: time from a request to the head of its answer, by consumer.
        dripped_sec: time that clients were kept with signs of life, by consumer.
        turns: granted leases by consumer.
        gone: requests whose client left, by consumer.
        jobs: jobs that are no longer held, by consumer and reason.
    """

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, str, str]] = Counter()
        self.waits: dict[str, Histogram] = {}
        self.answers: dict[str, Histogram] = {}
        self.dripped_sec: dict[str, float] = {}
        self.turns: Counter[str] = Counter()
        self.gone: Counter[str] = Counter()
        self.jobs: Counter[tuple[str, str]] = Counter()
        self._consumers: set[str] = set()

    def request_ended(self, entry: Entry) -> None:
        """See Metrics."""
        consumer = self.label(entry.consumer)
        self.requests[consumer, entry.kind.value, status_label(entry.status)] += 1
        self.gone[consumer] += entry.status == CLIENT_GONE
        self.dripped_sec[consumer] = self.dripped_sec.get(consumer, 0.0) + entry.dripped_sec
        if entry.waited_sec > 0:
            self.waits.setdefault(consumer, Histogram()).record(entry.waited_sec)
        if entry.answered_sec is not None:
            self.answers.setdefault(consumer, Histogram()).record(entry.answered_sec)

    def turn_opened(self, consumer: str) -> None:
        """See Metrics."""
        self.turns[self.label(consumer)] += 1

    def job_ended(self, consumer: str, end: JobEnd) -> None:
        """See Metrics."""
        self.jobs[self.label(consumer), end.value] += 1

    def label(self, consumer: str) -> str:
        """The label of a consumer: its name, unless there are too many."""
        if not consumer:
            return OWN
        if consumer not in self._consumers and len(self._consumers) >= MAX_CONSUMERS:
            return OTHERS
        self._consumers.add(consumer)
        return consumer


def status_label(status: int) -> str:
    """The label of a status: consumers may answer with any number, so invalid ones share a label."""
    return str(status) if 100 <= status <= 599 else "invalid"
