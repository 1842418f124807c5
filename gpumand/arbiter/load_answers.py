"""Interprets the answers of a server during a load, and limits how long unusable answers are waited out."""

from __future__ import annotations

from collections.abc import Callable

from gpumand.domain.consumer import Health
from gpumand.domain.residency import DENIED_STATUS, is_denied
from gpumand.ports import RouteFailed

UNUSABLE_SEC = 5.0
"""Seconds for which a health route may be missing (404) or refuse the question otherwise: some servers add their routes
after they listen."""

OTHER_LOAD_SEC = 3.0
"""Seconds without growth of its memory after which a refused load route counts as failed. Until then another client's
request may be loading the same model."""

STILL_LOADING = frozenset({502, 503, 504})
"""Statuses of a load route that do not say that the load has failed: a proxy that did not wait for its end, or a server
that cannot answer while it loads."""

ADVICE = {401: "set key_file", 403: "check key_file"}
REDIRECT_ADVICE = "correct health.path, or set key_file if this leads to a login,"
OTHER_ADVICE = "correct health.path"


class HealthUnusable(RouteFailed):
    """The server runs, but its health route cannot be asked. Its unit must not be stopped for that."""


class UnusableHealth:
    """Ends a wait for a server that answers, but not the question of its health check.

    Args:
        consumer: name of the consumer, for the message.
        now: the monotonic clock in seconds.
    """

    def __init__(self, consumer: str, now: Callable[[], float]) -> None:
        self._consumer, self._now = consumer, now
        self._since: float | None = None

    def check(self, health: Health) -> None:
        """Raise HealthUnusable at once for a missing key, and for other refusals when they last."""
        if not is_denied(health):
            self._since = None
            return
        self._since = self._now() if self._since is None else self._since
        if health.status in DENIED_STATUS or self._now() - self._since >= UNUSABLE_SEC:
            error = health.error or f"health route answered {health.status}"
            unseen = "The server runs, but gpumand cannot see whether it is loaded"
            advice = ADVICE.get(health.status, REDIRECT_ADVICE if health.status < 400 else OTHER_ADVICE)
            raise HealthUnusable(f"{error}. {unseen}: {advice} in consumers.{self._consumer}")


def has_model(health: Health | None) -> bool:
    """Whether the server says that its model is loaded, or asleep, so that it need not be loaded."""
    return health is not None and (health.sleeping or (health.reachable and health.loaded is True))


def patience_with(failed: RouteFailed) -> float:
    """Seconds for which a load that goes on all the same is looked for after a load route has failed."""
    may_load = failed.status == 0 or 400 <= failed.status < 500 or failed.status in STILL_LOADING
    return OTHER_LOAD_SEC if may_load and failed.status not in DENIED_STATUS else 0.0


def describe_health(health: Health) -> str:
    """What a health check showed, in one line."""
    if health.failed:
        return f"health check: {health.failed}"
    if health.sleeping:
        return "health check: the model sleeps"
    if health.loading:
        return "health check: the model is being loaded"
    if not health.reachable:
        return health.error or "the health check was not answered"
    loaded = {True: "loaded", False: "not loaded", None: "the server runs"}[health.loaded]
    return f"health check: {loaded}" + (f" ({health.answer})" if health.answer else "")
