"""Refuses requests of routers whose table of the fleet is older than the revisions that this host has seen."""

from __future__ import annotations

from collections.abc import Callable

from gpumand.fleet.errors import StaleToken

MAX_CONSUMERS = 1024


class TokenGuard:
    """The highest revision of the store that came with a request, for each consumer.

    A router sends the revision of the row or intent by which it chose this host. One that was suspended, or cut off
    from the store, comes with a lower one than another router has brought since, and must read the store again.

    A revision that this host does not know itself is not remembered: a router of another store, or one that lies,
    would otherwise lock out the requests of all others.

    Args:
        known: the newest revision of the store that this host knows. It falls when the store was set up again.
    """

    def __init__(self, known: Callable[[], int]) -> None:
        self._known = known
        self._seen: dict[str, int] = {}

    def check(self, consumer: str, revision: int | None) -> None:
        """Check the revision of a request, and remember it. Raises StaleToken.

        Args:
            consumer: the requested consumer.
            revision: the revision; None = the router has no store, so there is nothing to compare.
        """
        if revision is None:
            return
        known = self._known()
        seen = min(self._seen.get(consumer, 0), known)
        if revision < seen:
            raise StaleToken(
                f"the request for {consumer} was placed by an old table (revision {revision}, {seen} was seen here). "
                "Read the store again and retry.",
                seen,
            )
        if consumer not in self._seen and len(self._seen) >= MAX_CONSUMERS:
            self._seen.pop(next(iter(self._seen)))
        self._seen[consumer] = min(revision, known)
