"""Encodes the reply to ``Acquire``."""

from __future__ import annotations

from dataclasses import replace

from gpumand.bus.body_templates import BodyTemplates
from gpumand.bus.marshalling import grant_entry
from gpumand.bus.signal_encoder import encode_body
from gpumand.domain.request import Grant

GRANT_SIGNATURE = "sa{sv}"


class GrantEncoder:
    """Encodes the bodies of replies to ``Acquire``."""

    def __init__(self) -> None:
        self._templates = BodyTemplates()

    def encode(self, grant: Grant) -> bytes:
        """Return the body of the reply."""
        lease = grant.lease
        if lease.reservation is not None or not lease.id.isascii():
            return _encode(grant)
        key = (len(lease.id), lease.consumer, lease.device, grant.evicted, grant.loaded, grant.endpoint)
        numbers = grant.waited_usec, lease.expires_usec
        return self._templates.encode(key, (lease.id.encode("ascii"),), numbers, lambda marks: _with(grant, *marks))


def _with(grant: Grant, waited_usec: int, expires_usec: int) -> bytes:
    lease = replace(grant.lease, expires_usec=expires_usec)
    return _encode(replace(grant, lease=lease, waited_usec=waited_usec))


def _encode(grant: Grant) -> bytes:
    return encode_body(GRANT_SIGNATURE, [grant.lease.id, grant_entry(grant)])
