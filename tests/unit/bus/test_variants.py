from __future__ import annotations

import pytest
from dbus_fast import Variant

from gpumand.bus.connection_errors import BusLost, BusTimeout, one_line
from gpumand.bus.variants import require_no_nul, unwrap


def test_variants_are_unwrapped_at_any_depth() -> None:
    nested = {"a": Variant("av", [Variant("s", "x"), Variant("a{sv}", {"b": Variant("(ui)", [1, -1])})])}
    assert unwrap([nested, b"raw"]) == [{"a": ["x", {"b": [1, -1]}]}, b"raw"]


def test_structs_become_lists() -> None:
    assert unwrap([(1, ("x", Variant("u", 2)))]) == [[1, ["x", 2]]]


@pytest.mark.parametrize(
    "value", ["a\0b", ["\0"], {"\0": 1}, {"k": Variant("s", "\0")}, Variant("as", ["ok", "\0"]), ("x", ("\0",))]
)
def test_nul_is_found_at_any_depth(value: object) -> None:
    with pytest.raises(ValueError, match="NUL"):
        require_no_nul(value)


def test_values_without_a_nul_pass() -> None:
    require_no_nul([1, "x", b"\0", {"k": Variant("ay", b"\0\0")}, None])


def test_text_of_a_peer_becomes_one_printable_line() -> None:
    assert one_line("a\nb\0c\x1b[31m  d\u2028e") == "a b c [31m d e"
    assert len(one_line("x" * 1_000_000)) == 2048


def test_error_messages_are_one_line() -> None:
    assert str(BusLost("gone\nfor good")) == "gone for good"
    assert BusTimeout("slow").name == "org.freedesktop.DBus.Error.NoReply"
