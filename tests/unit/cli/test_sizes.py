"""Amounts of VRAM on the command line."""

from __future__ import annotations

import pytest

from gpumand.cli.sizes import parse_size


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        ("12G", 12288),
        ("12GiB", 12288),
        ("12GB", 12288),
        ("12g", 12288),
        ("12288M", 12288),
        ("12288MiB", 12288),
        ("12288", 12288),
        (" 12 G ", 12288),
        ("1.5G", 1536),
        ("0.1G", 103),
        ("1", 1),
        ("1T", 1024 * 1024),
    ],
)
def test_amounts_are_read_in_mib(text: str, mib: int) -> None:
    assert parse_size(text) == mib


@pytest.mark.parametrize(
    "text", ["", "G", "12X", "12K", "-1G", "1e3", "0", "0G", "99T", "12G 5M", "\u0661G", "12iB", "12B"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="amount of VRAM"):
        parse_size(text)
