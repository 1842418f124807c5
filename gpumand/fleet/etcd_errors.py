"""What an error answer of etcd means: whether a retry, another login or an administrator can help.

Codes are those of gRPC. etcd 3.4 to 3.6 write them as ``code`` into the JSON of every error answer; the status of HTTP
is not enough, since it is the same for several of them.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Iterator

from gpumand.fleet.store import Denied, StoreError, StoreUnavailable
from gpumand.fleet.tls import explained

INVALID_ARGUMENT = 3
NOT_FOUND = 5
PERMISSION_DENIED = 7
RESOURCE_EXHAUSTED = 8
FAILED_PRECONDITION = 9
OUT_OF_RANGE = 11
UNAUTHENTICATED = 16

_LOGIN_HELPS = ("user name is empty", "auth store is old", "invalid auth token")
_REFUSALS = ("authentication failed", "permission denied", "user name not found", "user name is empty")
_COMMON_NAME = "CommonName of client"
_NO_SPACE = "database space exceeded"


class EtcdError(Exception):
    """etcd answered with an error.

    Attributes:
        code: code of gRPC.
        message: etcd's words, one line of at most 300 characters.
    """

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        self.message = "".join(one if one.isprintable() else " " for one in message[:300]).strip()
        super().__init__(self.message)

    @property
    def wants_login(self) -> bool:
        """Whether another login can help: a restart of a member ends its tokens."""
        return self.code == UNAUTHENTICATED or any(one in self.message for one in _LOGIN_HELPS)

    @property
    def is_refusal(self) -> bool:
        """Whether only an administrator can help."""
        known = self.code in (PERMISSION_DENIED, UNAUTHENTICATED) or _COMMON_NAME in self.message
        return known or any(one in self.message for one in _REFUSALS)

    @property
    def is_final(self) -> bool:
        """Whether the same request has the same answer: etcd decided about it, or takes no writes at all for now."""
        known = (INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION, OUT_OF_RANGE)
        return self.code in known or _NO_SPACE in self.message

    @property
    def was_not_carried_out(self) -> bool:
        """Whether etcd certainly did not carry the request out. Without a leader, or after a timeout, it may later."""
        return self.code == RESOURCE_EXHAUSTED or self.is_final or self.is_refusal


def plain_refusal(answer: bytes) -> EtcdError | None:
    """The refusal of a certificate with a common name, the only error that etcd does not write as JSON."""
    found = _COMMON_NAME.encode() in answer
    return EtcdError(PERMISSION_DENIED, answer.decode(errors="replace")) if found else None


def as_store_error(error: EtcdError, what: str) -> StoreError:
    """The error of the port for an error answer.

    Args:
        error: the answer.
        what: the operation, for people.
    """
    if _COMMON_NAME in error.message:
        return Denied(
            f"etcd refuses {what}: the certificate of this host has a common name (CN), which etcd does not accept "
            "over HTTP. Use a certificate with an empty CN: gpumanctl fleet join writes one."
        )
    if error.is_refusal:
        return Denied(f"etcd refuses {what}: {error.message}. Check user, password and role of this host in etcd.")
    if _NO_SPACE in error.message:
        return StoreUnavailable(
            f"etcd refuses {what}: its database has reached its quota (alarm NOSPACE), so that it takes no writes. "
            "Compact and defragment it, then end the alarm: etcdctl compact, etcdctl defrag, etcdctl alarm disarm."
        )
    return StoreUnavailable(f"etcd failed at {what}: {error.message}")


def tls_failure(error: BaseException) -> str:
    """Why TLS failed, with what to do; "" if the failure has nothing to do with TLS."""
    for one in _causes(error):
        # A connection that ends without a closing alert is one that failed, not a certificate that was refused.
        if isinstance(one, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return ""
        if isinstance(one, ssl.SSLError | ssl.CertificateError):
            return explained(one)
    return ""


def reset_hint(endpoint: str, error: BaseException) -> str:
    """What a connection that a member has reset can mean, to append to the failure; "" for any other failure.

    With TLS 1.3 a member refuses a certificate only after the handshake, and its alert can get lost with the reset.

    Args:
        endpoint: URL of the member.
        error: the failure of the call.
    """
    was_reset = any(getattr(one, "errno", None) in (errno.ECONNRESET, errno.EPIPE) for one in _causes(error))
    if not was_reset or not endpoint.startswith("https:"):
        return ""
    return ". It may refuse the certificate of this host: check its dates, and that etcd uses the fleet's authority"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(8):
        if error is None:
            return
        yield error
        inner = getattr(error, "os_error", None) or getattr(error, "certificate_error", None)
        error = (
            inner if isinstance(inner, BaseException) and inner is not error else error.__cause__ or error.__context__
        )
