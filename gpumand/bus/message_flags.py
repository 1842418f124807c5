"""Makes dbus-fast accept every combination of message flags.

dbus-fast 1.84 (Debian 12) looks up the flags in a table of single flags, and closes its connection on a message with
two flags or with an unknown one. So any client on the bus could stop the daemon with one call (``busctl
--auto-start=no``). The D-Bus specification requires unknown flags to be ignored. Later versions do so, and they use
the table as well.
"""

from __future__ import annotations

from dbus_fast.constants import MESSAGE_FLAG_MAP, MessageFlag

KNOWN = MessageFlag.NO_REPLY_EXPECTED | MessageFlag.NO_AUTOSTART | MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION


def accept_all_flag_combinations() -> None:
    """Fill dbus-fast's flag table with an entry for every byte value; unknown flags are dropped."""
    for octet in range(256):
        MESSAGE_FLAG_MAP.setdefault(octet, MessageFlag(octet & KNOWN.value))
