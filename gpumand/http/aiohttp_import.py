"""Imports aiohttp without the certificates of the system, for processes that run for months.

aiohttp creates two TLS contexts of its own at its import and reads the certificates for both. That takes 2 MB and some
20 ms, although nearly all servers of a GPU host speak plain HTTP, and a fleet has certificates of its own.
"""

from __future__ import annotations

import importlib
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def import_aiohttp() -> None:
    """Import aiohttp without the certificates of the system.

    aiohttp's own context then trusts no certificate. A request to an https server that does not pass a context of its
    own therefore fails, and is not sent unprotected.
    """
    if "aiohttp.connector" not in sys.modules:
        with _without_certificates():
            importlib.import_module("aiohttp")


@contextmanager
def _without_certificates() -> Iterator[None]:
    create = ssl.create_default_context
    ssl.create_default_context = _trusting_nothing
    # aiohttp's second context verifies nothing, so that it needs no certificates, but reads them all the same.
    setattr(ssl.SSLContext, "set_default_verify_paths", _read_nothing)  # noqa: B010 - mypy knows it as a method
    try:
        yield
    finally:
        ssl.create_default_context = create
        delattr(ssl.SSLContext, "set_default_verify_paths")  # that of the base class remains


def _trusting_nothing(*_args: object, **_options: object) -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _read_nothing(_context: ssl.SSLContext) -> None:
    pass
