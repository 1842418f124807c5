"""Encodes the announcement of a new lease."""

from __future__ import annotations

from gpumand.bus.body_templates import BodyTemplates
from gpumand.bus.interfaces import Interface
from gpumand.bus.object_tree import ADDED_SIGNATURE, PublishedObject
from gpumand.bus.properties import Values
from gpumand.bus.signal_encoder import encode_body

GRANTED, EXPIRES = "GrantedUsec", "ExpiresUsec"
VARIABLE = ("Id", GRANTED, EXPIRES)


class LeaseAddedEncoder:
    """Encodes the bodies of ``InterfacesAdded`` for leases."""

    def __init__(self, interface: Interface) -> None:
        self._interface = interface
        self._templates = BodyTemplates()

    def encode(self, path: str, state: Values) -> bytes:
        """Return the body for a lease with these properties; its path and its id are ASCII text."""
        name = state["Id"]
        fixed = state.copy()
        for variable in VARIABLE:
            del fixed[variable]
        key = (len(path), len(name), *fixed.values())
        texts, numbers = (path.encode("ascii"), name.encode("ascii")), (state[GRANTED], state[EXPIRES])
        return self._templates.encode(key, texts, numbers, lambda marks: self._encode(path, state, *marks))

    def _encode(self, path: str, state: Values, granted_usec: int, expires_usec: int) -> bytes:
        marked = state | {GRANTED: granted_usec, EXPIRES: expires_usec}
        properties = PublishedObject(path, self._interface, marked).properties()
        return encode_body(ADDED_SIGNATURE, [path, {self._interface.name: properties}])
