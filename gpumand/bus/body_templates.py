"""Encodes the body of a message over that of one before it, from which it differs in an id and some times at most.

The announcement of a lease and the reply with it are the largest messages of a grant, and nearly the same for all
leases of a client. The announcements of its counts are made twice for each lease. What differs has a fixed length and
is written over the former values. The tests of each user of this module compare the result with dbus-fast's own
encoding.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import pack, pack_into

MAX_TEMPLATES = 64
"""Templates kept for each kind of message: clients may give every lease another reason."""

MAX_NUMBER = 2**64 - 1
MARKS = (2**64 - 3, 2**64 - 5)
"""Numbers by which the places of at most two numbers in a body are found: no time is that large, and no text has such
bytes."""

Key = tuple[object, ...]
Template = tuple[bytes, tuple[int, ...], tuple[int, ...]]
"""The body, and where in it the texts and the numbers are."""


class BodyTemplates:
    """The templates of one kind of message.

    Args:
        limit: the most templates that are kept.
    """

    def __init__(self, limit: int = MAX_TEMPLATES) -> None:
        self._templates: dict[Key, Template] = {}
        self._limit = limit

    def encode(
        self, key: Key, texts: tuple[bytes, ...], numbers: tuple[int, ...], build: Callable[[tuple[int, ...]], bytes]
    ) -> bytes:
        """Return a body.

        Args:
            key: all that decides the body apart from the texts and numbers, and the lengths of the texts.
            texts: texts that differ, in the order in which they stand before all other text of clients.
            numbers: at most two 64-bit numbers that differ; what such a number cannot hold is cut to the nearest one.
            build: encodes the body with other numbers, as many.
        """
        content, text_places, number_places = self._templates.get(key) or self._add(key, texts, len(numbers), build)
        if not text_places and not number_places:
            return content
        body = bytearray(content)
        for place, text in zip(text_places, texts, strict=True):
            body[place : place + len(text)] = text
        for place, number in zip(number_places, numbers, strict=True):
            pack_into("<Q", body, place, min(max(number, 0), MAX_NUMBER))
        return bytes(body)

    def _add(
        self, key: Key, texts: tuple[bytes, ...], count: int, build: Callable[[tuple[int, ...]], bytes]
    ) -> Template:
        content = build(MARKS[:count])
        text_places: list[int] = []
        end = 0
        for text in texts:
            text_places.append(content.index(text, end))
            end = text_places[-1] + len(text)
        if len(self._templates) >= self._limit:
            self._templates.clear()
        number_places = tuple(content.index(pack("<Q", mark)) for mark in MARKS[:count])
        template = self._templates[key] = content, tuple(text_places), number_places
        return template
