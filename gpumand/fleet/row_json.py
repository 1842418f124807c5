"""The JSON forms of rows and intents: compact, and checked when they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from gpumand.domain.residency_states import Residency
from gpumand.fleet import json_fields
from gpumand.fleet.json_fields import InvalidJson
from gpumand.fleet.keys import is_consumer_name, is_machine_id
from gpumand.fleet.rows import NOTHING, ConsumerRow, DeviceRow, Holder, HostRow, Intent

MAX_ROW_BYTES = 64 * 1024
MAX_INTENT_BYTES = 1024
MAX_DEVICES = 64
MAX_CONSUMERS = 1024

_DEVICE_KEYS = frozenset({"uuid", "total", "free"})
_CONSUMER_KEYS = frozenset({"r", "need", "leases", "limit", "queue", "ms", "device", "unique"})
_HOST_KEYS = frozenset(
    {"id", "epoch", "seq", "name", "url", "gateway", "version", "api", "gpus", "ram", "consumers", "queue", "drain"}
    | {"omitted"}
)

# -- encoding ----------------------------------------------------------------------------------------------------------


def encode_host(row: HostRow) -> str:
    """The JSON form of a host, at most ``MAX_ROW_BYTES``.

    Keys with their default values are left out: a host with 24 consumers stays below 4 KB. If the form is too large
    all the same, consumers are omitted, those first that are not loaded and that no request waits for, and the row
    says how many.
    """
    text = _dump(_host(row))
    while len(text) > MAX_ROW_BYTES:
        row = _shortened(row)
        text = _dump(_host(row))
    return text


def _shortened(row: HostRow) -> HostRow:
    """The row without its least interesting consumers, and at last without its unknown keys."""
    if not row.consumers:
        return HostRow(row.machine_id, row.epoch, row.seq, row.name, row.url, row.gateway, omitted=row.omitted)
    ordered = sorted(row.consumers.items(), key=lambda one: (_interest(one[1]), one[0]), reverse=True)
    kept = dict(ordered[: len(ordered) * 9 // 10])
    return replace(row, consumers=kept, omitted=row.omitted + len(ordered) - len(kept))


def _interest(consumer: ConsumerRow) -> tuple[bool, bool]:
    loaded = consumer.residency not in (Residency.UNLOADED, Residency.UNKNOWN)
    return bool(consumer.leases or consumer.queue), loaded


def encode_intent(intent: Intent) -> str:
    """The JSON form of an intent."""
    return _dump({"host": intent.host, "router": intent.router, "nonce": intent.nonce, "until": intent.until_usec})


def encode_holder(holder: Holder) -> str:
    """The JSON form of the host of a unique consumer."""
    return _dump({"host": holder.host, "nonce": holder.nonce})


def _host(row: HostRow) -> dict[str, object]:
    fields = {
        **row.extra,
        "id": row.machine_id,
        "epoch": row.epoch,
        "seq": row.seq,
        "name": row.name,
        "url": row.url,
        "gateway": row.gateway,
        "version": row.version,
        "api": row.api,
        "gpus": [_device(one) for one in row.devices],
        "ram": row.ram_mib,
        "consumers": {name: _consumer(one) for name, one in row.consumers.items()},
        "queue": row.queue,
        "drain": row.draining,
        "omitted": row.omitted,
    }
    return _without_defaults(fields, keep=("id", "epoch", "seq", "api", "ram"))


def _device(row: DeviceRow) -> dict[str, object]:
    return _without_defaults(
        {**row.extra, "uuid": row.uuid, "total": row.total_mib, "free": row.free_mib}, ("total", "free")
    )


def _consumer(row: ConsumerRow) -> dict[str, object]:
    times = {"load": row.load_ms, "wake": row.wake_ms, "park": row.park_ms, "hold": row.hold_ms}
    fields = {
        **row.extra,
        "r": str(row.residency),
        "need": row.need_mib,
        "leases": row.leases,
        "limit": row.limit,
        "queue": row.queue,
        "ms": {key: value for key, value in times.items() if value is not None},
        "device": row.device,
        "unique": row.unique,
    }
    return _without_defaults(fields, keep=("need", "limit", "device"))


def _without_defaults(fields: Mapping[str, object], keep: tuple[str, ...] = ()) -> dict[str, object]:
    """Leave out what a reader supplies: null always, and zero, false and empty values except those of ``keep``."""
    return {key: value for key, value in fields.items() if value is not None and (key in keep or value)}


def _dump(fields: Mapping[str, object]) -> str:
    return json.dumps(fields, separators=(",", ":"))


# -- parsing -----------------------------------------------------------------------------------------------------------


def parse_host(text: str) -> HostRow:
    """Parse the JSON form of a host. Raises InvalidJson."""
    fields = json_fields.parse_object(text, "row", MAX_ROW_BYTES)
    row = HostRow(
        machine_id=_machine_id(fields, "id"),
        epoch=json_fields.number(fields, "epoch") or 0,
        seq=json_fields.number(fields, "seq") or 0,
        name=json_fields.text(fields, "name", 255),
        url=json_fields.text(fields, "url", 512),
        gateway=json_fields.text(fields, "gateway", 512),
        version=json_fields.text(fields, "version", 64),
        api=json_fields.number(fields, "api") or 0,
        devices=_devices(fields.get("gpus")),
        ram_mib=json_fields.number(fields, "ram"),
        consumers=_consumers(fields.get("consumers")),
        queue=json_fields.number(fields, "queue") or 0,
        draining=json_fields.flag(fields, "drain"),
        omitted=json_fields.number(fields, "omitted") or 0,
        extra=_extra(fields, _HOST_KEYS),
    )
    if row.api < 1:
        raise InvalidJson("api is missing")
    return row


def parse_intent(text: str) -> Intent:
    """Parse the JSON form of an intent. Raises InvalidJson."""
    fields = json_fields.parse_object(text, "intent", MAX_INTENT_BYTES)
    return Intent(
        host=_machine_id(fields, "host"),
        router=json_fields.text(fields, "router", 128),
        nonce=json_fields.text(fields, "nonce", 64),
        until_usec=json_fields.number(fields, "until") or 0,
    )


def parse_holder(text: str) -> Holder:
    """Parse the JSON form of the host of a unique consumer. Raises InvalidJson."""
    fields = json_fields.parse_object(text, "holder", MAX_INTENT_BYTES)
    return Holder(_machine_id(fields, "host"), json_fields.text(fields, "nonce", 64))


def _machine_id(fields: Mapping[str, object], key: str) -> str:
    found = json_fields.text(fields, key, 32)
    if not is_machine_id(found):
        raise InvalidJson(f"{key} is not a machine id")
    return found


def _devices(value: object) -> tuple[DeviceRow, ...]:
    found = json_fields.as_list([] if value is None else value, "gpus", MAX_DEVICES)
    return tuple(_parse_device(json_fields.as_object(one, "an element of gpus")) for one in found)


def _parse_device(fields: dict[str, object]) -> DeviceRow:
    return DeviceRow(
        uuid=json_fields.text(fields, "uuid", 128),
        total_mib=json_fields.number(fields, "total"),
        free_mib=json_fields.number(fields, "free"),
        extra=_extra(fields, _DEVICE_KEYS),
    )


def _consumers(value: object) -> Mapping[str, ConsumerRow]:
    found = json_fields.as_object({} if value is None else value, "consumers")
    if len(found) > MAX_CONSUMERS:
        raise InvalidJson(f"there are {len(found)} consumers, more than {MAX_CONSUMERS}")
    return MappingProxyType({_consumer_name(name): _parse_consumer(name, one) for name, one in found.items()})


def _consumer_name(name: str) -> str:
    if not is_consumer_name(name):
        raise InvalidJson(f"{name[:80]!r} is not the name of a consumer")
    return name


def _parse_consumer(name: str, value: object) -> ConsumerRow:
    fields = json_fields.as_object(value, f"consumer {name}")
    times = json_fields.as_object(fields.get("ms") or {}, f"ms of {name}")
    return ConsumerRow(
        residency=_residency(json_fields.text(fields, "r", 32)),
        need_mib=json_fields.number(fields, "need"),
        leases=json_fields.number(fields, "leases") or 0,
        limit=json_fields.number(fields, "limit"),
        queue=json_fields.number(fields, "queue") or 0,
        load_ms=json_fields.number(times, "load"),
        wake_ms=json_fields.number(times, "wake"),
        park_ms=json_fields.number(times, "park"),
        hold_ms=json_fields.number(times, "hold"),
        device=json_fields.number(fields, "device"),
        unique=json_fields.flag(fields, "unique"),
        extra=_extra(fields, _CONSUMER_KEYS),
    )


def _residency(name: str) -> Residency:
    """The state of a name; a state that only a newer version has is unknown here."""
    try:
        return Residency(name)
    except ValueError:
        return Residency.UNKNOWN


def _extra(fields: Mapping[str, object], known: frozenset[str]) -> Mapping[str, object]:
    found = json_fields.extra(fields, known)
    return MappingProxyType(found) if found else NOTHING
