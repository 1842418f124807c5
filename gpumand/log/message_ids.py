"""Ids of important log messages: ``journalctl MESSAGE_ID=…`` finds all messages of one kind.

The ids never change. ``systemd/gpumand.catalog`` explains each of them (``journalctl --catalog``); a test checks that.
"""

from __future__ import annotations

from enum import StrEnum

ROUTINE_LOGGER = "gpumand.routine"
"""Logger for routine messages such as grants; ``gpumand.log.logging_setup`` mutes it on the console."""

FIELD_PREFIX = "GPUMAND_"


class MessageId(StrEnum):
    """Message ids in the format of the journal: 128 bits in hex."""

    EVICTION = "fc668f5f085248d5953d22fcb1c36906"
    EVICTION_FAILED = "681c7d30f38d4d0aabbd0ae42abe5591"
    GRANT = "4ffb77ecd71846f4afe180abdfe400f2"
    REFUSAL = "b20bc9efeb2247cba8160a98ccf2a0d7"
    DEGRADED = "6bf1e620404344808a0c8aa34028ab81"
    GATEWAY_REQUEST = "2c9808f4d358e81a5a42be3ca3dbcef0"


def fields(message: MessageId, **named: object) -> dict[str, object]:
    """The ``extra`` argument of a log call: the message id, and a field GPUMAND_… for each named value.

    Values that are None or "" are left out.
    """
    known = {FIELD_PREFIX + name.upper(): value for name, value in named.items() if value is not None and value != ""}
    return {"MESSAGE_ID": message.value, **known}
