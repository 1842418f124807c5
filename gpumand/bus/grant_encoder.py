"""Encodes the reply to ``Acquire``, most of which is the same for all grants of a consumer.

Only the id of the lease and two times differ from one grant to the next; they have fixed lengths, and are written over
those of a template, as in ``lease_added``. ``tests/unit/bus/test_grant_encoder.py`` compares the result with
dbus-fast's own encoding.
"""

from __future__ import annotations

from dataclasses import replace
from struct import pack, pack_into

from gpumand.bus.marshalling import grant_entry
from gpumand.bus.signal_encoder import encode_body
from gpumand.domain.request import Grant

GRANT_SIGNATURE = "sa{sv}"
MAX_TEMPLATES = 64
ID_OFFSET = 4
"""The id is the first string of the body, after its length."""

MAX_USEC = 2**64 - 1
WAITED_MARK, EXPIRES_MARK = 2**64 - 3, 2**64 - 5
"""Times that no grant has, by which the places of the times in a template are found: no text has such bytes."""

Key = tuple[int, str, str, tuple[str, ...], bool, str]
Template = tuple[bytes, int, int]
"""The body, and where in it the two times are."""


class GrantEncoder:
    """Encodes the bodies of replies to ``Acquire``."""

    def __init__(self) -> None:
        self._templates: dict[Key, Template] = {}

    def encode(self, grant: Grant) -> bytes:
        """Return the body of the reply."""
        lease = grant.lease
        if lease.reservation is not None or not lease.id.isascii():
            return encode_body(GRANT_SIGNATURE, [lease.id, grant_entry(grant)])
        key = (len(lease.id), lease.consumer, lease.device, grant.evicted, grant.loaded, grant.endpoint)
        template = self._templates.get(key)
        if template is None:
            template = self._add_template(key, grant)
        content, waited_offset, expires_offset = template
        body = bytearray(content)
        body[ID_OFFSET : ID_OFFSET + len(lease.id)] = lease.id.encode("ascii")
        pack_into("<Q", body, waited_offset, min(max(grant.waited_usec, 0), MAX_USEC))
        pack_into("<Q", body, expires_offset, min(max(lease.expires_usec, 0), MAX_USEC))
        return bytes(body)

    def _add_template(self, key: Key, grant: Grant) -> Template:
        lease = replace(grant.lease, expires_usec=EXPIRES_MARK)
        marked = replace(grant, lease=lease, waited_usec=WAITED_MARK)
        content = encode_body(GRANT_SIGNATURE, [lease.id, grant_entry(marked)])
        waited_offset, expires_offset = (content.index(pack("<Q", mark)) for mark in (WAITED_MARK, EXPIRES_MARK))
        if len(self._templates) >= MAX_TEMPLATES:
            self._templates.clear()
        template = self._templates[key] = content, waited_offset, expires_offset
        return template
