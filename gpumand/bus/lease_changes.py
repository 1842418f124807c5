"""Encodes the changes of properties that every lease causes: two counts, and the time of last use of a consumer."""

from __future__ import annotations

from gpumand.bus.body_templates import BodyTemplates
from gpumand.bus.interfaces import Interface
from gpumand.bus.object_tree import CHANGED_SIGNATURE, PublishedObject
from gpumand.bus.properties import Values
from gpumand.bus.signal_encoder import encode_body

LEASE_COUNT, LEASES, LAST_USED = "LeaseCount", "Leases", "LastUsedUsec"
CHANGED_BY_LEASES = frozenset({LEASE_COUNT, LEASES, LAST_USED})

MAX_COUNTS = 256
"""Templates kept: there is one for each number of leases at the same time."""


class LeaseChangesEncoder:
    """Encodes the bodies of ``PropertiesChanged`` for these properties."""

    def __init__(self) -> None:
        self._templates = BodyTemplates(MAX_COUNTS)

    def encode(self, interface: Interface, changed: Values) -> bytes | None:
        """Return the body for changed properties of an interface; None if others have changed, or one is unknown."""
        if not CHANGED_BY_LEASES.issuperset(changed) or None in changed.values():
            return None
        key = (interface.name, *changed, changed.get(LEASE_COUNT), changed.get(LEASES))
        times = (changed[LAST_USED],) if LAST_USED in changed else ()
        return self._templates.encode(key, (), times, lambda marks: _encode(interface, changed, marks))


def _encode(interface: Interface, changed: Values, times: tuple[int, ...]) -> bytes:
    marked = changed | {LAST_USED: times[0]} if times else changed
    values = PublishedObject("/", interface, marked).variants(marked)
    return encode_body(CHANGED_SIGNATURE, [interface.name, values, []])
