"""Limits of requests, for programs that check options and need nothing else about requests."""

from __future__ import annotations

MAX_WAIT_SEC = 24 * 3600.0
"""Maximum waiting time of a request, whatever timeout it has."""

MIN_PRIORITY, MAX_PRIORITY = -100, 100
