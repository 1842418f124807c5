"""Short forms of lease ids for people; a module without imports, for commands that must start fast."""

from __future__ import annotations

from collections.abc import Iterable

SHORT_ID = 6
"""Characters of a lease id in messages, more where they are needed to distinguish leases."""


def short_id(lease_id: str, all_ids: Iterable[str]) -> str:
    """The shortest beginning of a lease id, of ``SHORT_ID`` characters or more, that no other id has."""
    similar = [one for one in all_ids if one != lease_id and one.startswith(lease_id[:SHORT_ID])]
    lengths = range(SHORT_ID, len(lease_id))
    return next((lease_id[:length] for length in lengths if not _has_prefix(similar, lease_id[:length])), lease_id)


def _has_prefix(ids: Iterable[str], prefix: str) -> bool:
    return any(one.startswith(prefix) for one in ids)
