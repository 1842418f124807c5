"""Requests and answers of etcd's key-value API in JSON: keys and values in base64, numbers as texts."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gpumand.fleet.store import Entry, StoreUnavailable

Json = dict[str, Any]

MAX_VALUE_BYTES = 64 * 1024
MAX_KEY_BYTES = 512
NO_LEASE = 0


class MalformedAnswer(StoreUnavailable):
    """An answer is not what etcd writes."""

    def __init__(self, what: str) -> None:
        super().__init__(f"etcd answers without a valid {what}")


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key as etcd has it.

    Attributes:
        entry: key, value and the revision of the last write.
        created: revision that created the key.
        lease: id of its lease; 0 = none.
    """

    entry: Entry
    created: int
    lease: int


# -- requests ----------------------------------------------------------------------------------------------------------


def encode(text: str) -> str:
    """A text in base64."""
    return base64.b64encode(text.encode()).decode()


def after_prefix(prefix: str) -> str:
    """The end of the range of all keys with a prefix, in base64; the last byte of our prefixes is a slash."""
    raw = prefix.encode()
    return base64.b64encode(raw[:-1] + bytes([raw[-1] + 1])).decode()


def key_range(prefix: str) -> Json:
    """The range of all keys with a prefix."""
    return {"key": encode(prefix), "range_end": after_prefix(prefix)}


def put(key: str, value: str, lease: int = NO_LEASE) -> Json:
    """A write of a key."""
    return {"key": encode(key), "value": encode(value), "lease": str(lease)}


def if_revision(key: str, revision: int) -> Json:
    """The condition that the last write of a key had this revision; 0 = the key does not exist."""
    return {"key": encode(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}


def if_value(key: str, value: str) -> Json:
    """The condition that a key has this value."""
    return {"key": encode(key), "target": "VALUE", "result": "EQUAL", "value": encode(value)}


def transaction(condition: Json, then: Json, otherwise_read: str) -> Json:
    """A transaction: do one thing under a condition, and read a key if it does not hold."""
    return {
        "compare": [condition],
        "success": [then],
        "failure": [{"request_range": {"key": encode(otherwise_read)}}],
    }


# -- answers -----------------------------------------------------------------------------------------------------------


def number(fields: Mapping[str, Any], name: str) -> int:
    """A number, which JSON of protobuf writes as a text; one that is left out is 0. Raises MalformedAnswer."""
    value = fields.get(name, 0)
    if isinstance(value, str) and len(value) <= 20 and value.lstrip("-").isdecimal() and value.isascii():
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise MalformedAnswer(name)


def fields(answer: Mapping[str, Any], name: str) -> Json:
    """An object in an answer; one that is left out is empty. Raises MalformedAnswer."""
    value = answer.get(name, {})
    if not isinstance(value, dict):
        raise MalformedAnswer(name)
    return value


def elements(answer: Mapping[str, Any], name: str) -> list[Json]:
    """A list of objects in an answer; one that is left out is empty. Raises MalformedAnswer."""
    value = answer.get(name, [])
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise MalformedAnswer(name)
    return value


def revision_of(answer: Mapping[str, Any]) -> int:
    """The revision of the store at which an answer was given."""
    return number(fields(answer, "header"), "revision")


def key_values(range_answer: Mapping[str, Any]) -> tuple[KeyValue, ...]:
    """The keys in the answer to a range request."""
    return tuple(key_value(one) for one in elements(range_answer, "kvs"))


def key_value(raw: Mapping[str, Any]) -> KeyValue:
    """A key in an answer. Raises MalformedAnswer."""
    entry = Entry(_decoded(raw, "key", MAX_KEY_BYTES), _decoded(raw, "value", MAX_VALUE_BYTES), 0)
    revision = number(raw, "mod_revision")
    return KeyValue(Entry(entry.key, entry.value, revision), number(raw, "create_revision"), number(raw, "lease"))


def transaction_result(answer: Mapping[str, Any]) -> tuple[bool, KeyValue | None]:
    """Whether the condition held, and the key that was read if it did not; None if that does not exist."""
    succeeded = answer.get("succeeded", False)
    if not isinstance(succeeded, bool):
        raise MalformedAnswer("succeeded")
    if succeeded:
        return True, None
    found = _first(key_values(fields(one, "response_range")) for one in elements(answer, "responses"))
    return False, found


def _first(answers: Iterable[tuple[KeyValue, ...]]) -> KeyValue | None:
    return next((one for answer in answers for one in answer), None)


def _decoded(raw: Mapping[str, Any], name: str, at_most: int) -> str:
    """The text of a field. One that is too large or not UTF-8 becomes a text that no row or claim can be."""
    value = raw.get(name, "")
    if not isinstance(value, str):
        raise MalformedAnswer(name)
    if len(value) > at_most * 4 // 3 + 4:
        return f"(more than {at_most} bytes)"
    try:
        return base64.b64decode(value, validate=True).decode()
    except UnicodeDecodeError:
        return "(not UTF-8)"
    except (binascii.Error, ValueError):
        raise MalformedAnswer(name) from None
