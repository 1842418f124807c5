"""The format of the state files: encoding, and decoding with validation of every value."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from gpumand.domain.device import Devices
from gpumand.domain.lease import Lease, LeaseLifetime, Owner
from gpumand.domain.reservation import MAX_VRAM_MIB, Holder, ProcessKey, Reservation
from gpumand.state.folder import UnusableFile

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
class StoredLease:
    """A stored lease with the boot and bus it belongs to.

    Attributes:
        lease: the lease.
        bus_id: id of the bus on which the unique name of the owner is valid.
        boot_id: id of the boot during which the lease was granted.
    """

    lease: Lease
    bus_id: str
    boot_id: str


@dataclass(frozen=True, slots=True)
class StoredConsumer:
    """The stored pin (None = as configured) and time of last use of a consumer."""

    name: str
    pinned: bool | None
    last_used_usec: int


@dataclass(frozen=True, slots=True)
class StoredLoad:
    """A stored running load; a load of another boot has ended with that boot."""

    consumer: str
    devices: Devices
    began_usec: int
    boot_id: str


def encode_lease(stored: StoredLease) -> bytes:
    """Encode a lease as the content of a file."""
    lease, owner = stored.lease, stored.lease.owner
    record = {
        "format": FORMAT,
        "bus_id": stored.bus_id,
        "boot_id": stored.boot_id,
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
    if lease.restore:
        record["restore"] = True
    # Written only where they apply, so that an earlier version reads every other lease unchanged.
    record |= {"exclusive": True} if lease.exclusive else {}
    record |= {"yielded": True} if lease.yielded else {}
    record |= {"yields": lease.yields} if lease.yields else {}
    if lease.reservation is not None:
        record["reservation"] = _encode_reservation(lease.reservation)
    return json.dumps(record).encode()


def _encode_reservation(reservation: Reservation) -> dict[str, Any]:
    holder = reservation.holder
    return {
        "vram_mib": reservation.vram_mib,
        "whole_device": reservation.whole_device,
        "pid": holder.process.pid,
        "started": holder.process.started,
        "parent_pid": holder.parent.pid,
        "parent_started": holder.parent.started,
        "unit": holder.unit,
        "last_unit": holder.last_unit,
        "program": holder.program,
    }


def decode_lease(stem: str, content: bytes) -> StoredLease:
    """Decode a file with the name ``stem`` to a lease. Raises UnusableFile."""
    record = _Record.parse(content)
    lease = Lease(
        id=record.text("id"),
        consumer=record.text("consumer", least=1),
        device=record.device("device"),
        owner=_owner(record.record("owner")),
        lifetime=_lifetime(record.text("lifetime")),
        granted_usec=record.integer("granted_usec", MAX_USEC),
        expires_usec=record.integer("expires_usec", MAX_USEC),
        ttl_sec=record.seconds("ttl_sec"),
        reason=record.text("reason"),
        token=record.text("token"),
        uuids=record.uuids("uuids"),
        reservation=_reservation(record),
        restore=record.optional_flag("restore"),
        exclusive=record.optional_flag("exclusive"),
        yielded=record.optional_flag("yielded"),
        yields=record.optional_lease_id("yields"),
    )
    if lease.consumer != (lease.consumer if lease.reservation is None else lease.reservation.name):
        raise UnusableFile("its consumer does not match the reservation in it")
    if lease.id != stem or not LEASE_ID.fullmatch(stem):
        raise UnusableFile("its name does not match the lease in it")
    return StoredLease(lease, record.text("bus_id"), record.text("boot_id"))


def _reservation(record: _Record) -> Reservation | None:
    """The reservation of a lease; None for a lease on a consumer, as all were in files of earlier versions."""
    stored = record.optional_record("reservation")
    if stored is None:
        return None
    process = ProcessKey(stored.integer("pid", MAX_ID), stored.integer("started", MAX_USEC))
    parent = ProcessKey(stored.integer("parent_pid", MAX_ID), stored.integer("parent_started", MAX_USEC))
    return Reservation(
        record.text("id"),
        stored.integer("vram_mib", MAX_VRAM_MIB),
        stored.flag("whole_device"),
        Holder(process, parent, stored.text("unit"), stored.text("last_unit"), stored.text("program")),
    )


def encode_consumer(stored: StoredConsumer) -> bytes:
    """Encode a consumer as the content of a file."""
    record = {
        "format": FORMAT,
        "name": stored.name,
        "pinned": stored.pinned,
        "last_used_usec": stored.last_used_usec,
    }
    return json.dumps(record).encode()


def decode_consumer(stem: str, content: bytes) -> StoredConsumer:
    """Decode a file with the name ``stem`` to a consumer. Raises UnusableFile."""
    record = _Record.parse(content)
    stored = StoredConsumer(
        name=record.text("name", least=1),
        pinned=record.flag_or_none("pinned"),
        last_used_usec=record.integer("last_used_usec", MAX_USEC),
    )
    if consumer_stem(stored.name) != stem:
        raise UnusableFile("its name does not match the consumer in it")
    return stored


def encode_load(stored: StoredLoad) -> bytes:
    """Encode a running load as the content of a file."""
    record = {
        "format": FORMAT,
        "boot_id": stored.boot_id,
        "consumer": stored.consumer,
        # A single device is a number, as in files written before a consumer could use several devices.
        "device": stored.devices[0] if len(stored.devices) == 1 else list(stored.devices),
        "began_usec": stored.began_usec,
    }
    return json.dumps(record).encode()


def decode_load(stem: str, content: bytes) -> StoredLoad:
    """Decode a file with the name ``stem`` to a load. Raises UnusableFile."""
    record = _Record.parse(content)
    stored = StoredLoad(
        consumer=record.text("consumer", least=1),
        devices=record.devices("device"),
        began_usec=record.integer("began_usec", MAX_USEC),
        boot_id=record.text("boot_id"),
    )
    if consumer_stem(stored.consumer) != stem:
        raise UnusableFile("its name does not match the consumer in it")
    return stored


def consumer_stem(name: str) -> str:
    """File name for a consumer: all characters but letters, digits, dash and underscore are percent-encoded."""
    return _NOT_PLAIN.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), name)


def _owner(record: _Record) -> Owner:
    return Owner(
        bus_name=record.text("bus_name"),
        uid=record.integer("uid", MAX_ID),
        pid=record.integer("pid", MAX_ID),
        unit=record.text("unit"),
        invocation_id=record.text("invocation_id"),
    )


def _lifetime(word: str) -> LeaseLifetime:
    try:
        return LeaseLifetime(word)
    except ValueError:
        raise UnusableFile("its lifetime is unknown to this version") from None


class _Record:
    """A JSON object whose values are read with a type check. All methods raise UnusableFile."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    @classmethod
    def parse(cls, content: bytes) -> _Record:
        try:
            values = json.loads(content)
        except (ValueError, RecursionError):  # RecursionError: 64 KiB have room for 64 Ki nested brackets
            raise UnusableFile("it is not valid JSON" if content else "it is empty") from None
        if not isinstance(values, dict):
            raise UnusableFile("it is not a JSON object")
        if values.get("format") != FORMAT:
            raise UnusableFile(f"its format is not {FORMAT}")
        return cls(values)

    def text(self, key: str, least: int = 0) -> str:
        text: str = self._checked_value(key, str, lambda one: least <= len(one) <= MAX_TEXT and _is_valid_text(one))
        return text

    def device(self, key: str) -> str:
        index: str = self._checked_value(key, str, lambda one: DEVICE.fullmatch(one) is not None)
        return index

    def devices(self, key: str) -> Devices:
        """Device indices, stored as one number or as a list."""
        found: int | list[int] = self._checked_value(key, (int, list), _are_devices)
        return tuple(sorted(set(found))) if isinstance(found, list) else (found,)

    def uuids(self, key: str) -> tuple[str, ...]:
        """UUIDs of devices; () where the key is missing, as in files of earlier versions."""
        if key not in self._values:
            return ()
        return tuple(self._checked_value(key, list, _are_uuids))

    def integer(self, key: str, most: int) -> int:
        number: int = self._checked_value(key, int, lambda one: not isinstance(one, bool) and 0 <= one <= most)
        return number

    def seconds(self, key: str) -> float:
        number: float = self._checked_value(key, (int, float), lambda one: not isinstance(one, bool) and _is_time(one))
        return float(number)

    def flag_or_none(self, key: str) -> bool | None:
        flag: bool | None = self._checked_value(key, (bool, type(None)), lambda _: True)
        return flag

    def flag(self, key: str) -> bool:
        flag: bool = self._checked_value(key, bool, lambda _: True)
        return flag

    def optional_flag(self, key: str) -> bool:
        """A flag; False where the key is missing, as in files of earlier versions."""
        return self.flag(key) if key in self._values else False

    def optional_lease_id(self, key: str) -> str:
        """A lease id; "" where the key is missing."""
        if key not in self._values:
            return ""
        lease_id: str = self._checked_value(key, str, lambda one: LEASE_ID.fullmatch(one) is not None)
        return lease_id

    def optional_record(self, key: str) -> _Record | None:
        """A JSON object; None where the key is missing."""
        return self.record(key) if key in self._values else None

    def record(self, key: str) -> _Record:
        return _Record(self._checked_value(key, dict, lambda _: True))

    def _checked_value(self, key: str, kind: type | tuple[type, ...], is_fit: Callable[[Any], bool]) -> Any:
        value = self._values.get(key, _Record)  # the class marks a missing key, since None is a valid value
        if not isinstance(value, kind) or not is_fit(value):
            raise UnusableFile(f"its {key} is missing" if value is _Record else f"its {key} is invalid")
        return value


def _are_devices(value: Any) -> bool:
    indices = value if isinstance(value, list) else [value]
    return 0 < len(indices) <= MAX_DEVICES and all(type(one) is int and 0 <= one <= MAX_INDEX for one in indices)


def _are_uuids(values: Any) -> bool:
    texts = [one for one in values if isinstance(one, str) and 0 < len(one) <= MAX_UUID and _is_valid_text(one)]
    return len(texts) == len(values) <= MAX_DEVICES


def _is_time(number: float) -> bool:
    return math.isfinite(number) and 0 <= number <= MAX_USEC


def _is_valid_text(text: str) -> bool:
    """Whether D-Bus can transport a text. JSON can contain lone surrogates and NUL, which D-Bus cannot."""
    return "\0" not in text and (text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text))
