"""Imports aiohttp without the certificates of the system, for processes that run for months.

aiohttp creates two TLS contexts of its own at its import and reads the certificates for both. That takes 2 MB and some
20 ms, although nearly all servers of a GPU host speak plain HTTP, and a fleet has certificates of its own.
"""

from __future__ import annotations

import importlib
import os
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from gpumand.http.later_names import imported_later

SELDOM_USED = {
    "urllib.request": ("getproxies", "proxy_bypass"),
    "email.parser": ("HeaderParser",),
    "email.policy": ("HTTP",),
    "html": ("escape",),
    "tempfile": ("SpooledTemporaryFile",),
    "mimetypes": (),
    "idna": (),
    "uuid": (),
}
"""Names that aiohttp uses for proxies of the environment, parameters of content types, error pages, uploads, cookies in
files and forms; of the modules without names it uses attributes only."""

NO_EXTENSION = "FROZENLIST_NO_EXTENSIONS"
"""A variable of the library frozenlist, read at its import."""


def import_aiohttp() -> None:
    """Import aiohttp without the certificates of the system.

    aiohttp's own context then trusts no certificate. A request to an https server that does not pass a context of its
    own therefore fails, and is not sent unprotected.
    """
    if "aiohttp.connector" not in sys.modules:
        with _without_certificates(), imported_later(SELDOM_USED), _without_extension():
            importlib.import_module("aiohttp")
            importlib.import_module("aiohttp.web_protocol")  # the servers of both processes need it


@contextmanager
def _without_extension() -> Iterator[None]:
    """Import frozenlist in its form without C++, whose library takes 1 MB. aiohttp uses it for its signals only."""
    if NO_EXTENSION in os.environ:
        yield
        return
    os.environ[NO_EXTENSION] = "1"
    try:
        yield
    finally:
        del os.environ[NO_EXTENSION]


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
