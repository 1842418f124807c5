"""TLS between hosts: both sides show a certificate of the fleet's authority, and the server knows the caller's name."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any
from urllib.parse import urlsplit

from gpumand.fleet.certificates import MEMBER_PREFIX
from gpumand.fleet.settings import TlsFiles

DIAGNOSIS_SEC = 1.0


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """The TLS context for connections to agents and to etcd.

    This function blocks while it reads the files.

    Raises:
        OSError: a file cannot be read.
        ssl.SSLError: a file has no certificate or key, or the key does not belong to the certificate.
    """
    context = ssl.create_default_context(cafile=str(files.ca))
    return _with_certificate(context, files)


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """The TLS context of an agent: callers without a valid certificate of the authority are refused.

    This function blocks while it reads the files; the exceptions are those of ``client_context``.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(files.ca))
    context.verify_mode = ssl.CERT_REQUIRED
    return _with_certificate(context, files)


def _with_certificate(context: ssl.SSLContext, files: TlsFiles) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(files.certificate, files.key)
    return context


def caller_name(peer_certificate: Any) -> str:
    """The name of the host that a verified client certificate belongs to: its first DNS name.

    Args:
        peer_certificate: what ``SSLObject.getpeercert()`` returns, from aiohttp's transport as
            ``request.transport.get_extra_info("peercert")``.

    Returns:
        The name in lower case; "" without a certificate, without a DNS name, or with a common name: such a certificate
        is none that gpumanctl fleet has created. Also "" for that of a member of etcd, which the group etcd can read.
    """
    if not isinstance(peer_certificate, dict):
        return ""
    subject = [pair[0] for part in peer_certificate.get("subject", ()) for pair in part]
    names = [value for kind, value in peer_certificate.get("subjectAltName", ()) if kind == "DNS"]
    name = str(names[0]).lower() if names and "commonName" not in subject else ""
    return "" if name.startswith(MEMBER_PREFIX) else name


def explained(error: Exception) -> str:
    """Why a connection to another host failed in TLS, with what to do; "" for an error that is none of TLS."""
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    text = " ".join(str(cause).split())
    if not isinstance(cause, ssl.SSLError | ssl.CertificateError):
        return ""
    for words, advice in _ADVICE:
        if words in text.lower():
            return advice
    return f"TLS failed: {text[:200]}"


async def why_disconnected(url: str, files: TlsFiles) -> str:
    """Why a server closes connections after the handshake, with what to do; "" if that is not for TLS.

    With TLS 1.3 a client learns only by reading that the server has refused its certificate, and servers on asyncio
    close the connection without the alert that says why. aiohttp then reports only that the server has disconnected.

    Args:
        url: URL of the server.
        files: the certificates of this host.
    """
    parts = urlsplit(url)
    context = await asyncio.to_thread(client_context, files)
    try:
        async with asyncio.timeout(DIAGNOSIS_SEC):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 443, ssl=context)
            try:
                await reader.read(1)
            finally:
                writer.transport.abort()
    except ssl.SSLError as error:
        return explained(error)
    except TimeoutError:
        return ""
    except ConnectionRefusedError:
        return ""
    except OSError:
        pass  # a connection that is reset is closed too
    return await asyncio.to_thread(own_problem, files) or _FOREIGN


def own_problem(files: TlsFiles) -> str:
    """Why this host's certificate cannot be used, in one line; "" if its own authority accepts it. Blocks.

    A handshake with itself, in memory, applies the same checks as another host does.
    """
    try:
        own_certificate(files)
    except ssl.SSLError as error:
        return explained(error).replace("the other host", "this host")
    return ""


def own_certificate(files: TlsFiles) -> dict[str, Any]:
    """The certificate of this host as ``SSLSocket.getpeercert`` returns it, from a handshake with itself. Blocks.

    Raises:
        OSError: a file cannot be read.
        ssl.SSLError: the authority of the fleet does not accept the certificate.
    """
    client, server = client_context(files), server_context(files)
    client.check_hostname = False
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_side=False),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(4):
        for end in ends:
            _step(end)
    return ends[0].getpeercert() or {}


def _step(end: ssl.SSLObject) -> None:
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return


_RENEW = (
    "Renew it: gpumanctl fleet invite on the host with the certificate authority, gpumanctl fleet join --replace there"
)
_FOREIGN = "the other host does not accept the certificate of this host. Check that both are in the same fleet."
_OTHER_FLEET = "the certificate of the other host is from another authority: it is in another fleet."
_NO_HOST = (
    "the certificate of the other host is none of a host. Use the one that gpumanctl fleet init or join has written."
)
_ADDRESS = "the certificate of the other host is for another address. Invite it again, with --address ADDRESS."
_ADVICE = (
    ("certificate has expired", f"the certificate of the other host has expired. {_RENEW}."),
    ("certificate is not yet valid", "the certificate of the other host is not valid yet. Set the clocks of both."),
    ("unsuitable certificate purpose", _NO_HOST),
    ("hostname mismatch", _ADDRESS),
    ("ip address mismatch", _ADDRESS),
    ("alert certificate expired", "the other host says that the certificate of this host has expired. Renew it."),
    ("alert unknown ca", _FOREIGN),
    ("alert bad certificate", _FOREIGN),
    ("certificate required", "the other host requires a certificate: set certificate and key in fleet.toml."),
    ("self-signed certificate in", _OTHER_FLEET),
    ("self signed certificate in", _OTHER_FLEET),
    ("unable to get local issuer", _OTHER_FLEET),
    ("certificate signature failure", _OTHER_FLEET),
    ("wrong version number", "the other host answers without TLS: write http://, or enable TLS there."),
)
