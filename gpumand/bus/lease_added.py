"""Encodes the announcement of a new lease, most of which is the same for all leases of a client on a consumer.

A lease has 17 properties, so that its announcement is the largest of a grant. Only the path, the id and two times
differ from the one before; they have fixed lengths, and are written over those of a template.
``tests/unit/bus/test_lease_added.py`` compares the result with dbus-fast's own encoding.
"""

from __future__ import annotations

from struct import pack, pack_into

from gpumand.bus.interfaces import Interface
from gpumand.bus.object_tree import ADDED_SIGNATURE, PublishedObject
from gpumand.bus.properties import Values
from gpumand.bus.signal_encoder import encode_body

MAX_TEMPLATES = 64
"""Templates kept: clients may give every lease another reason."""

PATH_OFFSET = 4
"""The path is the first string of the body, after its length."""

MAX_USEC = 2**64 - 1

GRANTED, EXPIRES = "GrantedUsec", "ExpiresUsec"
MARKS = {GRANTED: 2**64 - 3, EXPIRES: 2**64 - 5}
"""Times that no lease has, by which the places of the times in a template are found."""

Key = tuple[object, ...]
Template = tuple[bytes, int, int, int]
"""The body, and where in it the id and the two times are."""


class LeaseAddedEncoder:
    """Encodes the bodies of ``InterfacesAdded`` for leases."""

    def __init__(self, interface: Interface) -> None:
        self._interface = interface
        self._templates: dict[Key, Template] = {}

    def encode(self, path: str, state: Values) -> bytes:
        """Return the body for a lease with these properties; its path and its id are ASCII text."""
        name = state["Id"]
        key = (len(path), len(name), *[value for key, value in state.items() if key not in ("Id", GRANTED, EXPIRES)])
        template = self._templates.get(key)
        if template is None:
            template = self._add_template(key, path, state)
        content, id_offset, granted_offset, expires_offset = template
        body = bytearray(content)
        body[PATH_OFFSET : PATH_OFFSET + len(path)] = path.encode("ascii")
        body[id_offset : id_offset + len(name)] = name.encode("ascii")
        pack_into("<Q", body, granted_offset, min(max(state[GRANTED], 0), MAX_USEC))
        pack_into("<Q", body, expires_offset, min(max(state[EXPIRES], 0), MAX_USEC))
        return bytes(body)

    def _add_template(self, key: Key, path: str, state: Values) -> Template:
        properties = PublishedObject(path, self._interface, state | MARKS).properties()
        content = encode_body(ADDED_SIGNATURE, [path, {self._interface.name: properties}])
        # The path ends with the id, which therefore is looked for behind it. It comes before all text of clients.
        id_offset = content.index(state["Id"].encode("ascii"), PATH_OFFSET + len(path))
        granted, expires = (content.index(pack("<Q", MARKS[name])) for name in (GRANTED, EXPIRES))
        if len(self._templates) >= MAX_TEMPLATES:
            self._templates.clear()
        template = self._templates[key] = content, id_offset, granted, expires
        return template
