"""A member that resets the connection: the certificate is named as a possible reason, but for no other failure."""

from __future__ import annotations

import errno
import ssl

import aiohttp
import pytest

from gpumand.fleet.etcd_errors import reset_hint


def caused_by(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        aiohttp.ClientOSError(errno.ECONNRESET, "Connection reset by peer"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        caused_by(aiohttp.ServerDisconnectedError(), ConnectionResetError(errno.ECONNRESET, "reset")),
    ],
)
def test_a_reset_names_the_certificate(error: Exception) -> None:
    assert "certificate of this host" in reset_hint("https://etcd:2379", error)
    assert reset_hint("http://etcd:2379", error) == ""


@pytest.mark.parametrize(
    "error", [TimeoutError(), ConnectionRefusedError(errno.ECONNREFUSED, "refused"), ssl.SSLError(1, "alert")]
)
def test_another_failure_does_not(error: Exception) -> None:
    assert reset_hint("https://etcd:2379", error) == ""
