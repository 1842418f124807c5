"""What the files say, and reading it back without believing it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from gpumand.domain.device import Devices
from gpumand.domain.lease import Lease, LeaseLifetime, Owner
from gpumand.state.folder import Unfit

FORMAT = 1

LEASE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
MAX_DEVICES = 64
MAX_INDEX = 9999
DEVICE = re.compile(rf"[0-9]{{1,4}}(,[0-9]{{1,4}}){{0,{MAX_DEVICES - 1}}}", re.ASCII)
MAX_TEXT = 1024
MAX_UUID = 128
MAX_USEC = 2**63 - 1
MAX_ID = 2**32 - 1
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9_-]")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KeptLease:
    """A lease, and where it was granted.

    Attributes:
        lease: the lease.
        bus_id: the bus on which its owner's unique name means something.
        boot_id: the boot in whose course it was granted.
    """

    lease: Lease
    bus_id: str
    boot_id: str


@dataclass(frozen=True, slots=True)
class KeptConsumer:
    """What was set by hand or learned about a consumer; ``pinned`` None = as configured."""

    name: str
    pinned: bool | None
    last_used_usec: int


@dataclass(frozen=True, slots=True)
class KeptLoad:
    """A load that is under way; one of another boot has ended with it."""

    consumer: str
    devices: Devices
    began_usec: int
    boot_id: str


def encode_lease(kept: KeptLease) -> bytes:
    """A lease as the content of a file."""
    lease, owner = kept.lease, kept.lease.owner
    record = {
        "format": FORMAT,
        "bus_id": kept.bus_id,
        "boot_id": kept.boot_id,
        "id": lease.id,
        "consumer": lease.consumer,
        "device": lease.device,
        "owner": {
            "bus_name": owner.bus_name,
            "uid": owner.uid,
            "pid": owner.pid,
            "unit": owner.unit,
            "invocation_id": owner.invocation_id,
        },
        "lifetime": lease.lifetime.value,
        "granted_usec": lease.granted_usec,
        "expires_usec": lease.expires_usec,
        "ttl_sec": lease.ttl_sec,
        "reason": lease.reason,
        "token": lease.token,
        "uuids": list(lease.uuids),
    }
    return json.dumps(record).encode()


def decode_lease(stem: str, content: bytes) -> KeptLease:
    """The lease in a file named ``stem``. Raises Unfit."""
    record = _Record.parse(content)
    lease = Lease(
        id=record.text("id"),
        consumer=record.text("consumer", least=1),
        device=record.device("device"),
        owner=_owner(record.inner("owner")),
        lifetime=_lifetime(record.text("lifetime")),
        granted_usec=record.whole("granted_usec", MAX_USEC),
        expires_usec=record.whole("expires_usec", MAX_USEC),
        ttl_sec=record.seconds("ttl_sec"),
        reason=record.text("reason"),
        token=record.text("token"),
        uuids=record.uuids("uuids"),
    )
    if lease.id != stem or not LEASE_ID.fullmatch(stem):
        raise Unfit("its name is not that of the lease in it")
    return KeptLease(lease, record.text("bus_id"), record.text("boot_id"))


def encode_consumer(kept: KeptConsumer) -> bytes:
    """A consumer as the content of a file."""
    record = {
        "format": FORMAT,
        "name": kept.name,
        "pinned": kept.pinned,
        "last_used_usec": kept.last_used_usec,
    }
    return json.dumps(record).encode()


def decode_consumer(stem: str, content: bytes) -> KeptConsumer:
    """The consumer in a file named ``stem``. Raises Unfit."""
    record = _Record.parse(content)
    kept = KeptConsumer(
        name=record.text("name", least=1),
        pinned=record.flag_or_none("pinned"),
        last_used_usec=record.whole("last_used_usec", MAX_USEC),
    )
    if consumer_stem(kept.name) != stem:
        raise Unfit("its name is not that of the consumer in it")
    return kept


def encode_load(kept: KeptLoad) -> bytes:
    """A load as the content of a file."""
    record = {
        "format": FORMAT,
        "boot_id": kept.boot_id,
        "consumer": kept.consumer,
        "device": kept.devices[0] if len(kept.devices) == 1 else list(kept.devices),
        "began_usec": kept.began_usec,
    }
    return json.dumps(record).encode()


def decode_load(stem: str, content: bytes) -> KeptLoad:
    """The load in a file named ``stem``. Raises Unfit."""
    record = _Record.parse(content)
    kept = KeptLoad(
        consumer=record.text("consumer", least=1),
        devices=record.devices("device"),
        began_usec=record.whole("began_usec", MAX_USEC),
        boot_id=record.text("boot_id"),
    )
    if consumer_stem(kept.consumer) != stem:
        raise Unfit("its name is not that of the consumer in it")
    return kept


def consumer_stem(name: str) -> str:
    """A consumer's name as a file name: everything but letters, digits, dash and underscore percent-encoded."""
    return _NOT_PLAIN.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), name)


def _owner(record: _Record) -> Owner:
    return Owner(
        bus_name=record.text("bus_name"),
        uid=record.whole("uid", MAX_ID),
        pid=record.whole("pid", MAX_ID),
        unit=record.text("unit"),
        invocation_id=record.text("invocation_id"),
    )


def _lifetime(word: str) -> LeaseLifetime:
    try:
        return LeaseLifetime(word)
    except ValueError:
        raise Unfit("its lifetime is not known to this version") from None


class _Record:
    """A JSON object whose every value is asked for by type. All methods raise Unfit."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    @classmethod
    def parse(cls, content: bytes) -> _Record:
        try:
            values = json.loads(content)
        except (ValueError, RecursionError):  # RecursionError: 64 KiB can hold 64 Ki brackets
            raise Unfit("it is no JSON" if content else "it is empty") from None
        if not isinstance(values, dict):
            raise Unfit("it is no record of gpumand's")
        if values.get("format") != FORMAT:
            raise Unfit(f"its format is not {FORMAT}")
        return cls(values)

    def text(self, key: str, least: int = 0) -> str:
        text: str = self._value(key, str, lambda one: least <= len(one) <= MAX_TEXT and _is_encodable(one))
        return text

    def device(self, key: str) -> str:
        index: str = self._value(key, str, lambda one: DEVICE.fullmatch(one) is not None)
        return index

    def devices(self, key: str) -> Devices:
        """One index, or several in a list."""
        found: int | list[int] = self._value(key, (int, list), _are_devices)
        return tuple(sorted(set(found))) if isinstance(found, list) else (found,)

    def uuids(self, key: str) -> tuple[str, ...]:
        """Of devices; an earlier version wrote none."""
        if key not in self._values:
            return ()
        return tuple(self._value(key, list, _are_uuids))

    def whole(self, key: str, most: int) -> int:
        number: int = self._value(key, int, lambda one: not isinstance(one, bool) and 0 <= one <= most)
        return number

    def seconds(self, key: str) -> float:
        number: float = self._value(key, (int, float), lambda one: not isinstance(one, bool) and _is_time(one))
        return float(number)

    def flag_or_none(self, key: str) -> bool | None:
        flag: bool | None = self._value(key, (bool, type(None)), lambda _: True)
        return flag

    def inner(self, key: str) -> _Record:
        return _Record(self._value(key, dict, lambda _: True))

    def _value(self, key: str, kind: type | tuple[type, ...], is_fit: Callable[[Any], bool]) -> Any:
        value = self._values.get(key, _Record)  # None may be a value
        if not isinstance(value, kind) or not is_fit(value):
            raise Unfit(f"its {key} is missing" if value is _Record else f"its {key} cannot be true")
        return value


def _are_devices(value: Any) -> bool:
    indices = value if isinstance(value, list) else [value]
    return 0 < len(indices) <= MAX_DEVICES and all(type(one) is int and 0 <= one <= MAX_INDEX for one in indices)


def _are_uuids(values: Any) -> bool:
    texts = [one for one in values if isinstance(one, str) and 0 < len(one) <= MAX_UUID and _is_encodable(one)]
    return len(texts) == len(values) <= MAX_DEVICES


def _is_time(number: float) -> bool:
    return math.isfinite(number) and 0 <= number <= MAX_USEC


def _is_encodable(text: str) -> bool:
    """JSON can say half a surrogate pair, and NUL, which D-Bus cannot; none of ours has them."""
    return "\0" not in text and (text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text))
