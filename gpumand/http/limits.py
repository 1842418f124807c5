"""Limits of the HTTP endpoints. Every local user may connect, so no client may impair the daemon or other clients."""

from __future__ import annotations

MAX_CONNECTIONS = 128
"""Maximum number of connections. Above it, the oldest connection that is not an event stream is closed."""

BACKLOG = 256
"""Length of the accept queue. asyncio's default of 100 would reduce the length that systemd has set, and connections of
a burst of clients would fail. asyncio accepts that many connections in one loop iteration, so it must not be thousands.
"""

MAX_READERS = 32
MAX_READERS_PER_PEER = 16
"""Maximum number of event streams, in total and per user (over TCP: per address), so that no user can take all."""

REQUEST_TIMEOUT_SEC = 10.0
"""Seconds from connecting to the last byte of the answer. A connection serves one request, so this one limit covers
slow headers, slow bodies and slow reading."""

GRACE_SEC = 1.0
"""Seconds left to a client that has closed its sending side or has sent more than a request may have."""

MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 1024
"""No endpoint takes a body: one up to this size is ignored, a larger one is refused."""

MAX_QUEUED_EVENTS = 256
KEEPALIVE_SEC = 15.0
WRITE_SEC = 10.0
"""Maximum number of queued events per reader; interval of keep-alive comments on a stream without events; and time
limit for a reader to accept data. Both times are in seconds."""

MAX_LABELLED_CONSUMERS = 64
"""Maximum number of consumers with their own metric labels; further consumers share the label ``_other``."""
