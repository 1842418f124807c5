"""Decompresses answers of servers and proxies that compress although the request accepts no compression.

A small compressed answer can expand to a huge one, so that the result is limited like an answer that is not compressed.
"""

from __future__ import annotations

import zlib

_ENCODINGS = frozenset({"gzip", "x-gzip", "deflate"})
_GZIP_OR_ZLIB = zlib.MAX_WBITS + 32


def decompress(body: bytes, encoding: str, limit: int) -> tuple[bytes, bool]:
    """Decompress a whole body.

    Args:
        body: the body as it was received.
        encoding: the Content-Encoding header, "" without one.
        limit: the most bytes to return.

    Returns:
        The content, and whether something is missing at its end. A body with an unknown encoding, or that is not
        encoded as its header says, is returned as it is.
    """
    if not body or encoding.strip().lower() not in _ENCODINGS:
        return body, False
    stream = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        content = stream.decompress(body, limit)
    except zlib.error:
        return body, False
    return content, not stream.eof
