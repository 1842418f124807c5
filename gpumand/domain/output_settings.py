"""The parts of the configuration that say where the daemon publishes what it knows: HTTP and the history."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """The ``[http]`` table of the configuration.

    Attributes:
        listen: address and port of a TCP listener in addition to the socket that systemd passes; "" = none.
        allow_remote: the address may be reachable from other hosts.
    """

    listen: str = ""
    allow_remote: bool = False


@dataclass(frozen=True, slots=True)
class HistorySettings:
    """The ``[history]`` table of the configuration.

    Attributes:
        keep_days: number of days for which history entries are kept; 0 = none are kept.
        demand_log: file to which every use of a consumer is appended as a JSON line; "" = none.
    """

    keep_days: float = 90.0
    demand_log: str = ""
