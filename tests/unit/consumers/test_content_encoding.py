"""Compressed answers: what is read of them, and how much."""

from __future__ import annotations

import gzip
import zlib

import pytest

from gpumand.consumers.content_encoding import decompress

TEXT = b'{"loaded": true}'


@pytest.mark.parametrize(
    ("body", "encoding"),
    [(gzip.compress(TEXT), "gzip"), (gzip.compress(TEXT), " X-GZIP"), (zlib.compress(TEXT), "deflate"), (TEXT, "")],
    ids=["gzip", "x-gzip", "deflate", "plain"],  # the default would contain the time, which differs between workers
)
def test_content_of_a_compressed_body(body: bytes, encoding: str) -> None:
    assert decompress(body, encoding, 1000) == (TEXT, False)


def test_body_that_expands_to_much_more_is_cut() -> None:
    content, is_cut = decompress(gzip.compress(b" " * 10_000_000), "gzip", 1000)
    assert (len(content), is_cut) == (1000, True)


def test_content_of_exactly_the_limit_is_whole() -> None:
    assert decompress(gzip.compress(TEXT), "gzip", len(TEXT)) == (TEXT, False)


def test_body_that_ends_early_is_cut() -> None:
    assert decompress(gzip.compress(TEXT)[:-4], "gzip", 1000)[1]


@pytest.mark.parametrize(("body", "encoding"), [(TEXT, "gzip"), (TEXT, "br"), (b"", "zstd"), (b"", "gzip")])
def test_body_that_cannot_be_decompressed_stays_as_it_is(body: bytes, encoding: str) -> None:
    assert decompress(body, encoding, 1000) == (body, False)
