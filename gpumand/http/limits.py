"""What a client of the HTTP face may cost at most: everybody may connect, so nobody may be harmed by who does."""

from __future__ import annotations

MAX_CONNECTIONS = 128
"""Beyond it, the oldest connection that is no event stream makes room for the newcomer."""

BACKLOG = 256
"""Connections that may wait to be accepted. asyncio's own 100 would cut down what systemd gave the socket, and a burst
of clients would be told to try again; so many are accepted in one turn of the loop, too, so it is not thousands."""

MAX_READERS = 32
MAX_READERS_PER_PEER = 16
"""Event streams in all, and of one user (of one address, over TCP): one user alone cannot keep the others out."""

LIFE_SEC = 10.0
"""From the connection to the last byte of the answer: one request a connection, so that this one limit covers slow
heads, slow bodies and slow reading."""

HURRY_SEC = 1.0
"""What is left to a client that has closed its end, or sent more than a request may have."""

MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 1024
"""No route takes a body: one that small is ignored, a larger one is refused."""

MAX_QUEUED_EVENTS = 256
KEEPALIVE_SEC = 15.0
WRITE_SEC = 10.0
"""Events that may wait for a reader, how often a quiet stream says that it lives, and how long a reader may take none
of it."""

MAX_LABELLED = 64
"""Consumers with metrics of their own; those beyond it are told together."""
