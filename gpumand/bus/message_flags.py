"""Flags of a message, for a binding that knows each of them and no two together.

dbus-fast 1.84 (Debian 12) looks the flags up in a table of single ones, and gives up its connection over a message that
has two, or one that is not known yet: anybody on the bus could end us by one call (``busctl --auto-start=no``). D-Bus
wants flags that are not known to be ignored. Later versions are right, and use the table too.
"""

from __future__ import annotations

from dbus_fast.constants import MESSAGE_FLAG_MAP, MessageFlag

KNOWN = MessageFlag.NO_REPLY_EXPECTED | MessageFlag.NO_AUTOSTART | MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION


def know_all_flags() -> None:
    """Have the binding's table say for every octet which of the known flags are in it."""
    for octet in range(256):
        MESSAGE_FLAG_MAP.setdefault(octet, MessageFlag(octet & KNOWN.value))
