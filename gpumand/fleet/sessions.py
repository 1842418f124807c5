"""HTTP sessions for connections to other hosts of the fleet."""

from __future__ import annotations

import ssl

import aiohttp


def open_session(tls: ssl.SSLContext | None) -> aiohttp.ClientSession:
    """Open a session without cookies, in a running event loop. It uses no proxy of the environment.

    Args:
        tls: context for https URLs; None = the system's authorities.
    """
    # Releases of aiohttp differ in the value for "no context", so the argument is left out then.
    connector = aiohttp.TCPConnector(ssl=tls) if tls else aiohttp.TCPConnector()
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
