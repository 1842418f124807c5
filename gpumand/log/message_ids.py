"""The log messages that matter, each under an id of its own: ``journalctl MESSAGE_ID=…`` finds all of its kind.

The ids are for ever; ``systemd/gpumand.catalog`` explains each (``journalctl --catalog``), which a test sees to.
"""

from __future__ import annotations

from enum import StrEnum

ROUTINE_LOGGER = "gpumand.routine"
"""The logger of what happens all day long and is written only where that is cheap; see ``gpumand.logs``."""

FIELD_PREFIX = "GPUMAND_"


class MessageId(StrEnum):
    """Ids of messages, as the journal keeps them: 128 bits in hex."""

    EVICTION = "fc668f5f085248d5953d22fcb1c36906"
    EVICTION_FAILED = "681c7d30f38d4d0aabbd0ae42abe5591"
    GRANT = "4ffb77ecd71846f4afe180abdfe400f2"
    REFUSAL = "b20bc9efeb2247cba8160a98ccf2a0d7"
    DEGRADED = "6bf1e620404344808a0c8aa34028ab81"


def fields(message: MessageId, **named: object) -> dict[str, object]:
    """What a log call gets as ``extra`` to be found by: the message's id and GPUMAND_… for each name.

    Unknown (None) and empty values are left out.
    """
    known = {FIELD_PREFIX + name.upper(): value for name, value in named.items() if value is not None and value != ""}
    return {"MESSAGE_ID": message.value, **known}
