"""Finds consumers that share a server and whose health checks cannot distinguish them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from gpumand.domain.consumer import ConsumerSpec, HealthRoute

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class SharedServer:
    """Consumers of one server that count as loaded together, because the server's answer is the same for all of them.

    Attributes:
        consumers: their names, two or more.
        url: the URL of the first one.
        path: path of the health check of the first one; "" without a health check.
    """

    consumers: tuple[str, ...]
    url: str
    path: str

    def __str__(self) -> str:
        names = " and ".join((", ".join(self.consumers[:-1]), self.consumers[-1]))
        asks = f"the health check {self.path} gives" if self.path else "they have no health check, which would give"
        return (
            f"{names} share the server {self.url}, and {asks} no answer for each of them: one counts as loaded when "
            "another one is. Set model in each of them, or configure one consumer for the server"
        )


def shared_servers(consumers: Iterable[ConsumerSpec]) -> list[SharedServer]:
    """Return the groups of consumers that use the same URL and whose health checks cannot distinguish them.

    Args:
        consumers: all configured consumers, in the order in which groups are to name them.
    """
    by_url: dict[str, list[ConsumerSpec]] = {}
    for spec in consumers:
        if spec.url:
            by_url.setdefault(_normalised(spec.url), []).append(spec)
    groups = (group for one in by_url.values() for group in _groups(one))
    return [SharedServer(tuple(one.name for one in group), group[0].url, _path(group)) for group in groups]


def _groups(specs: Sequence[ConsumerSpec]) -> list[list[ConsumerSpec]]:
    """Join consumers that cannot be distinguished, directly or through another one."""
    groups: list[list[ConsumerSpec]] = []
    for spec in specs:
        joined = [one for one in groups if any(_are_alike(spec, other) for other in one)]
        groups = [one for one in groups if one not in joined]
        groups.append([*(other for one in joined for other in one), spec])
    return [one for one in groups if len(one) > 1]


def _are_alike(one: ConsumerSpec, other: ConsumerSpec) -> bool:
    """Whether the answer to one health check also counts for the other consumer."""
    if not _may_be_one_server(one, other):
        return False
    return one.health is None or other.health is None or _ask_the_same(one.health, other.health)


def _may_be_one_server(one: ConsumerSpec, other: ConsumerSpec) -> bool:
    """Whether consumers of one URL may be parts of one process.

    Different units or containers take turns at a port, and distinguish their consumers. Beside a consumer with a
    unit, one without a unit is a part of the same server if it is of the same kind.
    """
    if one.service and other.service:
        return one.service == other.service
    return one.service == other.service or bool(one.preset and one.preset == other.preset)


def _ask_the_same(one: HealthRoute, other: HealthRoute) -> bool:
    """Whether two questions are the same, or one of them is about the whole server."""
    if not one.loaded or not other.loaded:
        return True
    if one.path != other.path:
        return False
    if one.loaded == other.loaded:
        return one.loaded_equals == other.loaded_equals
    return other.loaded.startswith(f"{one.loaded}/") or one.loaded.startswith(f"{other.loaded}/")


def _path(group: Sequence[ConsumerSpec]) -> str:
    return next((one.health.path for one in group if one.health is not None), "")


def _normalised(url: str) -> str:
    """Return a URL in which different spellings of the same address are equal."""
    parts = urlsplit(url)
    if not parts.hostname:
        return url
    host = "127.0.0.1" if parts.hostname in ("localhost", "::1") else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or _PORTS.get(parts.scheme, 0)}{parts.path}"
