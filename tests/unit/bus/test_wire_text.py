"""Text of programs and files is made fit for the bus, which closes the connection of a sender of anything else."""

from __future__ import annotations

import pytest

from gpumand.bus.wire_text import MAX_TEXT, text


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        ("nightly render", "nightly render"),
        ("Lösung für 模型", "Lösung für 模型"),
        ("two\nlines", "two\nlines"),
        ("ends\0here", "ends\ufffdhere"),
        ("caf\udce9", "caf?"),
        ("é\0\udc80", "é\ufffd?"),
        ("", ""),
    ],
)
def test_text_is_sent_without_nul_and_lone_surrogates(value: str, sent: str) -> None:
    assert text(value) == sent
    sent.encode("utf-8")


@pytest.mark.parametrize("char", ["x", "é", "\0", "\udc80"])
def test_long_text_is_cut(char: str) -> None:
    assert len(text(char * (MAX_TEXT + 100))) == MAX_TEXT
