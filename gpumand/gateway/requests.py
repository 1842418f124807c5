"""The table of requests in flight and of held jobs, with client, route and state; each of them can be cancelled."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from gpumand.gateway.refusals import MIN_RETRY_SEC, Refusal, refused
from gpumand.gateway.routes.classes import RouteClass

NAMED_MODEL = "gpumand.model"
"""Key of aiohttp's request for the model that it names, as the client has written it."""


class State(StrEnum):
    """The state of a request in flight."""

    WAITING = "waiting"
    RUNNING = "running"
    JOB = "job"
    """The answer has ended, and the lease is held because the work goes on in the consumer."""


@dataclass(frozen=True, slots=True)
class Client:
    """A client, as it is shown in lists.

    Attributes:
        name: name of its key or user, else its address.
        priority: priority of its requests, -100 to 100; None = that of the listener or the consumer.
        is_local: whether other clients may share its name, because all programs of this host have it.
        consumers: the consumers that it may use; None = all.
        is_interactive: whether it may use the slots that are reserved for interactive keys.
        has_key: whether it has presented a key of the gateway, which must not reach a service.
        may_evict: whether it may evict and pin consumers, and cancel requests of others.
    """

    name: str
    priority: int | None = None
    is_local: bool = False
    consumers: frozenset[str] | None = None
    may_evict: bool = False
    is_interactive: bool = False
    has_key: bool = False


@dataclass(slots=True)
class Entry:
    """One request, or one held job. Its path is shown without the query, and neither headers nor body are kept.

    Attributes:
        number: id for ``cancel``.
        began_at: monotonic seconds; of a job, when its request was answered.
        state: what it does now.
        waits_for: why it waits, in one line.
        status: HTTP status of the answer; 0 while there is none, and 499 if the client left or closed its sending side.
        cancel_retry_sec: after how many seconds its client may repeat a cancelled request; None = not by itself.
        refusal: why its client may not send it any more, since a reload of the configuration.
        is_working: whether the consumer works on it, or may do so: it has its lease.
        sent_bytes: size of the answer so far.
        answered_sec: time from the request to the head of the consumer's answer; None while there is none.
        task: the task of a request.
        release: stops holding a job.
    """

    number: int
    client: Client
    consumer: str
    method: str
    path: str
    kind: RouteClass
    began_at: float
    state: State = State.RUNNING
    waits_for: str = ""
    status: int = 0
    sent_bytes: int = 0
    answered_sec: float | None = None
    dripped_sec: float = 0.0
    waited_sec: float = 0.0
    is_cancelled: bool = False
    cancel_reason: str = ""
    cancel_retry_sec: int | None = None
    refusal: Refusal | None = None
    is_working: bool = False
    task: asyncio.Task[object] | None = field(default=None, repr=False)
    release: Callable[[], None] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class WaitLimits:
    """Maximum numbers of waiting requests, in total and per client that is not local."""

    total: int = 512
    per_client: int = 64


class RequestTable:
    """All requests in flight, and all held jobs.

    Args:
        limits: maximum numbers of waiting requests.
    """

    def __init__(self, limits: WaitLimits) -> None:
        self.limits = limits
        self._entries: dict[int, Entry] = {}
        self._waiting: Counter[str] = Counter()
        self._last = 0

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def open_count(self) -> int:
        """Number of requests in flight. Held jobs do not count, since no client waits for them."""
        return sum(entry.state is not State.JOB for entry in self._entries.values())

    def add(self, client: Client, consumer: str, method: str, path: str, kind: RouteClass) -> Entry:
        """Add a request of the current task."""
        self._last += 1
        now = asyncio.get_running_loop().time()
        entry = Entry(self._last, client, consumer, method, path, kind, now, task=asyncio.current_task())
        self._entries[self._last] = entry
        return entry

    def add_job(
        self, client: Client, consumer: str, method: str, path: str, began_at: float, release: Callable[[], None]
    ) -> Entry:
        """Add a held job.

        Args:
            client, consumer, method, path: of its request.
            began_at: monotonic seconds at which the holding began.
            release: stops holding the job; called by ``cancel``.
        """
        self._last += 1
        entry = Entry(self._last, client, consumer, method, path, RouteClass.JOB, began_at, State.JOB, release=release)
        self._entries[self._last] = entry
        return entry

    def remove(self, entry: Entry) -> None:
        """A request has ended, or a job is no longer held."""
        self.end_wait(entry)
        self._entries.pop(entry.number, None)

    def begin_wait(self, entry: Entry) -> None:
        """A request begins to wait. Raises Refused if too many wait already."""
        name = entry.client.name
        if self._waiting.total() >= self.limits.total:
            raise refused(429, "gpu_busy", "Too many requests are waiting. Try again later.", MIN_RETRY_SEC)
        # All programs of this host share one address, so that a limit for it would refuse the burst of one of them.
        if not entry.client.is_local and self._waiting[name] >= self.limits.per_client:
            text = f"{self._waiting[name]} requests of {name} are waiting, the maximum. Try again later."
            raise refused(429, "gpu_busy", text, MIN_RETRY_SEC)
        self._count_wait(name, 1)
        entry.state = State.WAITING

    def end_wait(self, entry: Entry) -> None:
        """A request waits no longer; may be called repeatedly."""
        if entry.state is State.WAITING:
            entry.state, entry.waits_for = State.RUNNING, ""
            self._count_wait(entry.client.name, -1)

    def get(self, number: int) -> Entry | None:
        """A request in flight by its number."""
        return self._entries.get(number)

    def cancel(
        self, number: int, reason: str = "ended by an administrator", *, retry_sec: int | None = MIN_RETRY_SEC
    ) -> bool:
        """End a request, whose client gets an error with the reason, or stop holding a job.

        Returns False if there is no such request or job.

        Args:
            number: id of the request.
            reason: why it is ended, in one line.
            retry_sec: seconds after which its client may repeat it; None = not by itself.
        """
        entry = self._entries.get(number)
        if entry is not None and entry.release is not None:
            entry.release()
            return True
        if entry is None or entry.task is None:
            return False
        if not entry.is_cancelled:
            # A refusal that has not ended the request, because the consumer works on it, is not why it ends now.
            entry.refusal = None
        entry.is_cancelled, entry.cancel_reason, entry.cancel_retry_sec = True, reason, retry_sec
        entry.task.cancel()
        return True

    def refuse(self, entry: Entry, refusal: Refusal) -> None:
        """End a request whose client may not send it any more, unless the consumer works on it."""
        # A second cancellation would interrupt the end of a request that was cancelled before, and its client gets the
        # first reason.
        if entry.is_cancelled:
            return
        entry.refusal = refusal
        if not entry.is_working and entry.task is not None:
            entry.is_cancelled = True
            entry.task.cancel()

    def set_client(self, entry: Entry, client: Client) -> None:
        """Change the client of a request in flight, whose key has got other rights or another name."""
        if entry.state is State.WAITING:
            self._count_wait(entry.client.name, -1)
            self._count_wait(client.name, 1)
        entry.client = client

    def _count_wait(self, client: str, change: int) -> None:
        self._waiting[client] += change
        if not self._waiting[client]:
            del self._waiting[client]

    @staticmethod
    def now() -> float:
        """Monotonic seconds, as in ``Entry.began_at``."""
        return asyncio.get_running_loop().time()
