"""Message flags, regardless of the entries in dbus-fast's own table."""

from __future__ import annotations

from dbus_fast.constants import MESSAGE_FLAG_MAP, MessageFlag

from gpumand.bus.message_flags import KNOWN, accept_all_flag_combinations


def test_every_byte_maps_to_its_known_flags() -> None:
    accept_all_flag_combinations()
    assert {octet: flags.value for octet, flags in MESSAGE_FLAG_MAP.items()} == {
        octet: octet & KNOWN.value for octet in range(256)
    }


def test_single_flags_are_unchanged() -> None:
    accept_all_flag_combinations()
    assert all(MESSAGE_FLAG_MAP[flag.value] is flag for flag in MessageFlag)
