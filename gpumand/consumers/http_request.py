"""The request that a route of a consumer becomes; this module does no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """One request to a consumer.

    Attributes:
        consumer: name of the consumer; its requests share ``CONNECTIONS_PER_CONSUMER`` connections.
        method: HTTP method.
        url: absolute URL, http or https.
        json: request body, or None for no body.
        headers: additional headers; they replace default headers of the same name.
        timeout_sec: seconds from waiting for a connection to the last byte of the answer.
        reads_to_end: also read an answer to its end that is longer than ``BODY_BYTES``, up to ``STREAM_BYTES``. Streams
            of events are always read like this.
        repeatable: the request may be sent twice, since it changes nothing. It may be sent over a kept connection, and
            again if the server was just closing that. A load or an unload may not be, whatever its method.
        socket: path of the Unix socket to connect to instead of the host in ``url``; "" = none.
    """

    consumer: str
    method: str
    url: str
    json: Any
    headers: tuple[tuple[str, str], ...]
    timeout_sec: float
    reads_to_end: bool = False
    socket: str = ""
    repeatable: bool = False
