"""Flags of messages, whatever the binding's table knows of them."""

from __future__ import annotations

from dbus_fast.constants import MESSAGE_FLAG_MAP, MessageFlag

from gpumand.bus.message_flags import KNOWN, know_all_flags


def test_every_octet_is_the_known_flags_in_it() -> None:
    know_all_flags()
    assert {octet: flags.value for octet, flags in MESSAGE_FLAG_MAP.items()} == {
        octet: octet & KNOWN.value for octet in range(256)
    }


def test_single_flags_stay_what_they_are() -> None:
    know_all_flags()
    assert all(MESSAGE_FLAG_MAP[flag.value] is flag for flag in MessageFlag)
