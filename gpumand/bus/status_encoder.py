"""Encodes the reply of ``GetStatus`` as bytes; a consumer that has not changed is not encoded again.

With thousands of consumers, encoding all of them takes longer than any other call may wait. dbus-fast encodes each
consumer by itself, and the rest; here they are joined by the rules of the D-Bus marshalling format:

- An array begins with its length in bytes, a 32-bit number at a multiple of 4.
- The entries of a dictionary begin at a multiple of 8. That is 4 bytes further on if the length is at such a multiple.

``tests/unit/bus/test_status_encoder.py`` compares the result with dbus-fast's own encoding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from struct import pack_into

from dbus_fast import Variant

from gpumand.bus.marshalling import consumer_entry, status_entry
from gpumand.bus.signal_encoder import encode_body
from gpumand.domain.status import ConsumerStatus, Status

CONSUMERS, CONSUMERS_SIGNATURE = "consumers", "aa{sv}"
LENGTH_BYTES, ENTRIES_OFFSET = 4, 8


class StatusEncoder:
    """Encodes statuses, and remembers the bytes of each consumer."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[ConsumerStatus, bytes]] = {}

    def remember(self, consumers: Iterable[ConsumerStatus]) -> None:
        """Encode consumers, so that a later ``encode`` need not."""
        for consumer in consumers:
            self._known[consumer.name] = consumer, _consumer_bytes(consumer)

    def encode(self, status: Status) -> bytes:
        """Return the body of a reply with the signature ``a{sv}``."""
        entry = status_entry(replace(status, consumers=()))
        # Last, so that nothing but two lengths changes when consumers are appended to the empty array.
        del entry[CONSUMERS]
        entry[CONSUMERS] = Variant(CONSUMERS_SIGNATURE, [])
        body = bytearray(encode_body("a{sv}", [entry]))
        start = len(body)
        for consumer in self._encoded(status.consumers):
            body += bytes(-len(body) % LENGTH_BYTES)
            is_aligned = len(body) % ENTRIES_OFFSET == 0
            body += consumer if is_aligned else consumer[:LENGTH_BYTES] + consumer[ENTRIES_OFFSET:]
        pack_into("<I", body, start - LENGTH_BYTES, len(body) - start)
        pack_into("<I", body, 0, len(body) - ENTRIES_OFFSET)
        return bytes(body)

    def _encoded(self, consumers: tuple[ConsumerStatus, ...]) -> list[bytes]:
        """Each consumer as a dictionary that begins at a multiple of 8."""
        former, self._known = self._known, {}
        for consumer in consumers:
            known = former.get(consumer.name)
            if known is None or known[0] is not consumer:
                known = consumer, _consumer_bytes(consumer)
            self._known[consumer.name] = known
        return [content for _, content in self._known.values()]


def _consumer_bytes(consumer: ConsumerStatus) -> bytes:
    return encode_body("a{sv}", [consumer_entry(consumer)])
