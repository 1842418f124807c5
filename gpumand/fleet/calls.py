"""The bodies of requests to agents and to the local API: JSON objects, checked key by key.

An unknown key is refused by name, since an ignored typo in ``wait_sec`` would be harder to find than an error. Before a
version of gpumand-fleet sends a new key, ``rows.API`` must therefore rise. The key may go only to hosts whose row has
that version or a higher one; where it cannot be left out, ``rows.OLDEST_API`` rises as well.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from gpumand.domain.errors import InvalidArgs, NoSuchConsumer
from gpumand.domain.name_suggestions import nearest
from gpumand.domain.request_limits import MAX_PRIORITY, MAX_WAIT_SEC, MIN_PRIORITY
from gpumand.fleet import json_fields
from gpumand.fleet.json_fields import InvalidJson
from gpumand.fleet.keys import is_consumer_name

MAX_BODY_BYTES = 16 * 1024
MAX_TEXT = 512
MAX_EXCLUDED = 64
DEFAULT_WAIT_SEC = 60.0


class Basis(StrEnum):
    """Why a router sends a request to a host."""

    RESIDENT = "resident"
    """The consumer is loaded there, so the router claimed no intent; if it is not, the host must not load it."""

    INTENT = "intent"
    """The router, or another one, has an intent to load it there."""

    NONE = "none"
    """The fleet has no store at the moment, so the host decides by itself."""


@dataclass(frozen=True, slots=True)
class AcquireCall:
    """A request for a lease.

    Attributes:
        consumer: the consumer.
        wait_sec: seconds that it may wait; 0 = not at all.
        priority: -100 to 100; None = the consumer's own.
        device: index, UUID or PCI address on the host; "" = any.
        reason: purpose of the lease.
        restore, exclusive: see ``AcquireOptions``.
        user: the user that the request is for, as the caller states; "" = unknown.
        on: name or machine id of the host that must serve it; "" = any. Not used between hosts.
        basis: why the router chose this host; only used between hosts.
        revision: revision of the store by which it was chosen; None = there is no store.
        via: name of the host whose router sends it; for people, see ``LeaseRow``. Agents do not pass requests on, so
            there can be no loop of routers.
    """

    consumer: str
    wait_sec: float = DEFAULT_WAIT_SEC
    priority: int | None = None
    device: str = ""
    reason: str = ""
    restore: bool = False
    exclusive: bool = False
    user: str = ""
    on: str = ""
    basis: Basis = Basis.NONE
    revision: int | None = None
    via: str = ""

    def body(self) -> dict[str, Any]:
        """The JSON form that goes to another host; values that were not given are left out."""
        fields = {name: getattr(self, name) for name in ACQUIRE_KEYS if name != "on"}
        return {name: one for name, one in fields.items() if one is not None and one is not False and one != ""}


@dataclass(frozen=True, slots=True)
class LoadCall:
    """A request to load a consumer without a lease; attributes as in ``AcquireCall``."""

    consumer: str
    wait_sec: float = DEFAULT_WAIT_SEC
    device: str = ""
    user: str = ""
    on: str = ""

    def body(self) -> dict[str, Any]:
        """The JSON form that goes to another host."""
        return {"consumer": self.consumer, "wait_sec": self.wait_sec, "device": self.device, "user": self.user}


@dataclass(frozen=True, slots=True)
class PlanCall:
    """A request for the plan of an Acquire; attributes as in ``AcquireCall``."""

    consumer: str
    priority: int | None = None
    device: str = ""
    on: str = ""

    def body(self) -> dict[str, Any]:
        """The JSON form that goes to another host."""
        fields = {"consumer": self.consumer, "priority": self.priority, "device": self.device}
        return {name: one for name, one in fields.items() if one not in ("", None)}


@dataclass(frozen=True, slots=True)
class PlaceCall:
    """A request for the host that serves a consumer best; not used between hosts.

    Attributes:
        consumer: the consumer.
        without: names or machine ids of hosts that are not an answer.
    """

    consumer: str
    without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DrainCall:
    """A request to drain a host, or to end its drain.

    Attributes:
        drain: whether the host gets no new requests from now on.
        on: name or machine id of the host; not used between hosts.
    """

    drain: bool = True
    on: str = ""

    def body(self) -> dict[str, Any]:
        """The JSON form that goes to another host."""
        return {"drain": self.drain}


ACQUIRE_KEYS = tuple(AcquireCall.__dataclass_fields__)


def parse_acquire(text: str) -> AcquireCall:
    """Check the body of an acquire. Raises InvalidArgs, NoSuchConsumer."""
    fields = _fields(text, ACQUIRE_KEYS)
    return AcquireCall(
        consumer=_consumer(fields),
        wait_sec=_wait(fields),
        priority=_priority(fields),
        device=_text(fields, "device"),
        reason=_text(fields, "reason"),
        restore=_flag(fields, "restore"),
        exclusive=_flag(fields, "exclusive"),
        user=_text(fields, "user", 128),
        on=_text(fields, "on", 128),
        basis=_basis(fields),
        revision=_revision(fields),
        via=_text(fields, "via", 128),
    )


def parse_load(text: str) -> LoadCall:
    """Check the body of a load. Raises InvalidArgs, NoSuchConsumer."""
    fields = _fields(text, tuple(LoadCall.__dataclass_fields__))
    device, user, on = _text(fields, "device"), _text(fields, "user", 128), _text(fields, "on", 128)
    return LoadCall(_consumer(fields), _wait(fields), device, user, on)


def parse_claim(text: str) -> str:
    """Check the body of a claim; return the consumer. Raises InvalidArgs, NoSuchConsumer."""
    return _consumer(_fields(text, ("consumer",)))


def parse_plan(text: str) -> PlanCall:
    """Check the body of a plan. Raises InvalidArgs, NoSuchConsumer."""
    fields = _fields(text, tuple(PlanCall.__dataclass_fields__))
    return PlanCall(_consumer(fields), _priority(fields), _text(fields, "device"), _text(fields, "on", 128))


def parse_place(text: str) -> PlaceCall:
    """Check the body of a question for a host. Raises InvalidArgs, NoSuchConsumer."""
    fields = _fields(text, tuple(PlaceCall.__dataclass_fields__))
    without = fields.get("without", [])
    names = without if isinstance(without, list) else [None]
    if len(names) > MAX_EXCLUDED or not all(isinstance(one, str) and len(one) <= 128 for one in names):
        raise InvalidArgs(f"without is not a list of at most {MAX_EXCLUDED} names of hosts")
    return PlaceCall(_consumer(fields), tuple(map(str, names)))


def parse_drain(text: str) -> DrainCall:
    """Check the body of a drain. Raises InvalidArgs."""
    fields = _fields(text, tuple(DrainCall.__dataclass_fields__))
    return DrainCall(_flag(fields, "drain", True), _text(fields, "on", 128))


def dump_line(fields: Mapping[str, Any]) -> bytes:
    """A JSON object as one line."""
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def _fields(text: str, known: Collection[str]) -> dict[str, object]:
    try:
        fields = json_fields.parse_object(text, "the body", MAX_BODY_BYTES)
    except InvalidJson as error:
        raise InvalidArgs(f'{error}. Send a JSON object such as {{"consumer": "llm"}}.') from None
    for name in fields.keys() - known:
        close = nearest(name[:64], known)
        hint = f"did you mean {close!r}?" if close else "valid keys are " + ", ".join(known)
        raise InvalidArgs(f"unknown key {name[:64]!r}: {hint}")
    return fields


def _consumer(fields: Mapping[str, object]) -> str:
    name = _text(fields, "consumer", 64)
    if not name:
        raise InvalidArgs('consumer is missing: send its name, such as {"consumer": "llm"}')
    if not is_consumer_name(name):
        raise NoSuchConsumer(f"{name!r} cannot be the name of a consumer")
    return name


def _text(fields: Mapping[str, object], key: str, at_most: int = MAX_TEXT) -> str:
    try:
        return json_fields.text(fields, key, at_most)
    except InvalidJson as error:
        raise InvalidArgs(str(error)) from None


def _flag(fields: Mapping[str, object], key: str, default: bool = False) -> bool:
    try:
        return json_fields.flag(fields, key) if key in fields else default
    except InvalidJson as error:
        raise InvalidArgs(str(error)) from None


def _wait(fields: Mapping[str, object]) -> float:
    value = fields.get("wait_sec", DEFAULT_WAIT_SEC)
    if value is None:
        return MAX_WAIT_SEC
    if not json_fields.is_number(value):
        raise InvalidArgs("wait_sec is not a number of seconds from 0")
    return min(float(value), MAX_WAIT_SEC)


def _priority(fields: Mapping[str, object]) -> int | None:
    value = fields.get("priority")
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not MIN_PRIORITY <= value <= MAX_PRIORITY:
        raise InvalidArgs(f"priority is not an integer from {MIN_PRIORITY} to {MAX_PRIORITY}")
    return value


def _revision(fields: Mapping[str, object]) -> int | None:
    try:
        return json_fields.number(fields, "revision")
    except InvalidJson as error:
        raise InvalidArgs(str(error)) from None


def _basis(fields: Mapping[str, object]) -> Basis:
    name = _text(fields, "basis", 32) or Basis.NONE
    try:
        return Basis(name)
    except ValueError:
        known = ", ".join(repr(str(one)) for one in Basis)
        raise InvalidArgs(f"basis must be one of {known}, not {name!r}") from None
